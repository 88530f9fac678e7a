// SPDX-License-Identifier: Apache-2.0
//! A virtio device whose model is another process: the frontend of the vhost-user protocol, for any
//! type of device.
//!
//! Each device has a thread of its own ([`worker::Worker::run`]), which exists before the guest runs
//! and is the only one that talks to the device's process (the backend). Nothing else ever waits for
//! a backend: vCPU threads post a command and go on, and a guest's reads of the
//! configuration space are answered from a copy. The thread opens nothing. A connected stream is
//! given to it, at the start and whenever there is a new backend: the first connection is a
//! reconnection.
//!
//! A backend is untrusted: whatever it sends is bounded in length and time, descriptors it attaches
//! are never received, and a mistake costs it the connection. The device then stalls until another
//! backend is attached.

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
