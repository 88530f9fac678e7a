// SPDX-License-Identifier: Apache-2.0
//! The synchronisation primitives of the gate. Tests replace them by those of shuttle, which runs
//! the threads in many orders.

pub(super) use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
