// SPDX-License-Identifier: Apache-2.0
//! The real process on a real tap, driven by a vhost-user frontend and virtio driver without a
//! guest. Takes root: each test makes a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on must end

mod bad_input;
mod ctrl_commands;
mod frames;
mod full;
mod guarded;
mod guest_faults;
mod harness;
mod restart;
mod supervised;
mod turnover;
