// SPDX-License-Identifier: Apache-2.0
//! A virtio device that another process implements: the frontend of the vhost-user protocol, for
//! all device types.
//!
//! Each device has a thread of its own ([`worker::Worker::run`]), which starts before the guest
//! runs and is the only one that talks to the backend. No other thread ever waits for a backend:
//! vCPU threads post a command and continue, and a guest reads a copy of the configuration space.
//! The thread opens nothing. The supervisor passes it a connected stream, at the start and for each
//! new backend: the first connection is handled like a reconnection.
//!
//! A backend is untrusted: its messages are bounded in length and time, descriptors that it
//! attaches are never received, and a violation costs it the connection. The device then stalls
//! until another backend is attached.

mod button;
mod command_slot;
mod connection;
pub mod device;
pub mod events;
mod frontend;
pub mod inflight;
mod lifecycle;
mod memory;
#[cfg(test)]
mod models;
mod nic;
mod outstanding_sampler;
mod reconnect;
pub mod spec;
mod sync;
#[cfg(test)]
mod testing;
pub mod worker;
