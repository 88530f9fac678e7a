// SPDX-License-Identifier: Apache-2.0
//! What threads meet with at the start barrier. Models put the same names of another library in its place, which
//! runs its threads in every order.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
