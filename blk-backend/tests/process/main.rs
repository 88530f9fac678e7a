// SPDX-License-Identifier: Apache-2.0
//! The real process, driven by a vhost-user frontend and virtio driver without a guest.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on must end

mod bad_input;
mod copied;
mod failing_ring;
mod guest_faults;
mod harness;
mod hostile_vmm;
mod large_blocks;
mod protocol;
mod restart;
mod served;
mod supervised;
