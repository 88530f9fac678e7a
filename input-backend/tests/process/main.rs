// SPDX-License-Identifier: Apache-2.0
//! The real process, driven by a vhost-user frontend and a virtio driver without a guest.

#![allow(clippy::unwrap_used, clippy::panic)] // a test that cannot go on must end

mod alone;
mod harness;
mod hostile;
mod killed;
mod pressed;
