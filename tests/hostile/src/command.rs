// SPDX-License-Identifier: Apache-2.0
//! What can be tried.

mod behaviour;
mod replies;
mod rings;
mod serve;
mod sharing;
mod silence;
mod uring;

use anyhow::Result;
use clap::Subcommand;

/// One kind of malice.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A backend whose replies are mutated, cut, repeated, unasked, or come with descriptors.
    Replies(replies::Options),
    /// A backend that stops answering or reading at every step of the conversation.
    Silence(silence::Options),
    /// A driver whose queue changes while it is read.
    Rings(rings::Options),
    /// A disk at a socket, for a real guest: it fails every request, and does worse.
    Serve(serve::Options),
    /// A backend that abuses what it shares with the vmm: memory, eventfds, rings.
    Sharing(sharing::Options),
    /// Every request that an io_uring of a disk must refuse.
    Uring(uring::Options),
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Replies(options) => replies::run(&options),
            Self::Silence(options) => silence::run(&options),
            Self::Rings(options) => rings::run(&options),
            Self::Serve(options) => serve::run(&options),
            Self::Sharing(options) => sharing::run(&options),
            Self::Uring(options) => uring::run(&options),
        }
    }
}
