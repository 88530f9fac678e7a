// SPDX-License-Identifier: Apache-2.0
//! Virtio devices (virtio 1.2) as the vmm process sees them: a transport, through which the guest's
//! driver reaches the device, and the device itself, which is in another process.

pub mod device;
pub mod eventfd;
pub mod features;
pub mod queue;
pub mod transport;
pub mod vhost_user;
