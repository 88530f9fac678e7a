// SPDX-License-Identifier: Apache-2.0
//! What the threads around a command slot synchronise with. Models put the same names of another library in its place,
//! which runs its threads in every order.

pub(super) use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
