// SPDX-License-Identifier: Apache-2.0
//! The contract between the jailer and the processes it starts.
//!
//! A child inherits exactly its file descriptors, at the numbers of [`fd`], and a [`record`] that
//! says what they are for. It talks to the supervisor over one [`control`] socket and publishes
//! statistics in a [`health`] page. It opens no path. The supervisor asks the jailer for what only
//! the host can give ([`broker`]).
//!
//! Record, control messages and health page carry versions: a newer build may replace either side
//! while the VM runs.

pub mod broker;
pub mod control;
pub mod cpu_model;
pub mod cpu_set;
pub mod fd;
pub mod health;
pub mod inflight;
pub mod irqchip;
pub mod log_format;
pub mod mac;
pub mod memfd;
pub mod record;
pub mod seccomp;
pub mod slot;
