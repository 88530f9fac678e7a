// SPDX-License-Identifier: Apache-2.0
//! What threads meet at. Models put the same names of another library in its place, which runs its
//! threads in every order.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
