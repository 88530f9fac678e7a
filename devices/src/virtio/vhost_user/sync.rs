// SPDX-License-Identifier: Apache-2.0
//! The synchronisation primitives of the command slot. Tests replace them by those of shuttle,
//! which runs the threads in many orders.

pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
