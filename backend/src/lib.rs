// SPDX-License-Identifier: Apache-2.0
//! What a vhost-user backend process needs whatever its device is: the device's half of a split
//! virtqueue, read from and written to memory that a guest changes meanwhile; and what a process does
//! at its start, from the allocator to the gate at which its threads are confined.
//!
//! Linked into the backends. Everything in a [`ring`] or a [`chain`] was written by a guest and is
//! checked here before anyone uses it; `Err` is the guest's fault, never the host's.

pub mod allocator;
pub mod chain;
mod faults;
pub mod gate;
pub mod health;
pub mod listener;
pub mod pin;
pub mod polling;
pub mod ring;
pub mod vring;
pub mod window;

/// Guest memory as the frontend's memory table describes it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;
/// Guest memory that the frontend may replace.
pub type SharedGuestMemory = vm_memory::GuestMemoryAtomic<GuestMemory>;
