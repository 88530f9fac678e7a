// SPDX-License-Identifier: Apache-2.0
//! A vhost-user disk backend: a process that serves one image to one guest.
//!
//! Three files handle a request: [`worker`] takes it from its queue and gives it back, [`request`]
//! parses it, [`engine`] does its I/O. Around them: [`queue`] and [`inflight`] preserve it if the
//! process dies, [`device`] talks to the frontend, [`serve`] builds the device for a supervised or
//! a standalone process.

pub mod blocks;
pub mod config;
pub mod device;
pub mod engine;
mod failpoint;
pub mod inflight;
pub mod io;
mod options;
pub mod program;
pub mod queue;
pub mod request;
mod seccomp;
pub mod serve;
pub mod shared;
mod standalone;
mod supervised;
pub mod witness;
pub mod worker;
