// SPDX-License-Identifier: Apache-2.0
//! The contract between the jailer and the processes it starts.
//!
//! A child is born with exactly its file descriptors, at the numbers of [`fd`], and a [`record`]
//! that says what they are for. It talks to the supervisor over one [`control`] socket, publishes
//! what it does in a [`health`] page, confines itself with [`seccomp`] and writes its [`log`] to
//! file descriptor 2. Nothing of it opens a path.
//!
//! Record, control messages and health page carry versions: either side may be replaced by a newer
//! build while the VM runs.

pub mod clock;
pub mod control;
pub mod disk;
pub mod fd;
pub mod file;
pub mod health;
pub mod heap;
pub mod image;
pub mod inflight;
pub mod log;
pub mod memfd;
pub mod output;
pub mod process;
pub mod record;
pub mod ring;
pub mod seccomp;
pub mod signals;
pub mod tap;
