// SPDX-License-Identifier: Apache-2.0
//! The synchronisation primitives of the start barrier. Tests replace them by those of shuttle,
//! which runs the threads in many orders.

pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
