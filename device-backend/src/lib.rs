// SPDX-License-Identifier: Apache-2.0
//! What every vhost-user backend needs: the device's half of a split virtqueue, in memory that the
//! guest changes concurrently; and the process, from [`program`], its entry, to [`serve`], which
//! confines it and ends it.
//!
//! Linked into the backends. The guest writes everything in a [`ring`] or a [`chain`]; this crate
//! checks it before use, and an `Err` is the guest's fault, never the host's.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub mod bytes;
pub mod chain;
pub mod compat_proxy;
pub mod config_space;
mod control;
mod faults;
pub mod fd_table;
pub mod health;
pub mod listener;
pub mod memory;
#[cfg(test)]
mod models;
pub mod options;
pub mod polling;
pub mod program;
pub mod progress;
pub mod queue_device;
pub mod queue_state;
pub mod ring;
pub mod serve;
pub mod shared_mem;
pub mod spawn_thread;
pub mod start_barrier;
#[cfg(test)]
mod start_barrier_tests;
mod sync;
pub mod vring;
pub mod wake_event;

/// Guest memory as the frontend's memory table describes it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
/// Guest memory that the frontend may replace.
pub type SharedGuestMemory = vm_memory::GuestMemoryAtomic<GuestMemory>;

/// Locks a mutex. A panic ends the process, so no lock is ever poisoned outside tests.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
