// SPDX-License-Identifier: Apache-2.0
//! A disk in a process of its own: a vhost-user backend that serves one image to one guest.
//!
//! A request is followed through three files: [`worker`] takes it from its queue and gives it back,
//! [`request`] says what it means, [`engine`] does it. Around them: [`queue`] and [`inflight`] keep
//! it alive if the process dies, [`device`] speaks to the frontend, [`serve`] puts it together for a
//! process that was born in a jail or one that runs alone.

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
