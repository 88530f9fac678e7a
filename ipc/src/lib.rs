// SPDX-License-Identifier: Apache-2.0
//! The contract between the jailer and the processes it starts.
//!
//! A child is born with exactly its file descriptors, at the numbers of [`fd`], and a [`record`]
//! that says what they are for. It talks to the supervisor over one [`control`] socket and publishes
//! what it does in a [`health`] page. Nothing of it opens a path. What the supervisor needs the host
//! for it asks the jailer ([`broker`]).
//!
//! Record, control messages and health page carry versions: either side may be replaced by a newer
//! build while the VM runs.

pub mod broker;
pub mod control;
pub mod fd;
pub mod health;
pub mod inflight;
pub mod memfd;
pub mod record;
pub mod seccomp;
