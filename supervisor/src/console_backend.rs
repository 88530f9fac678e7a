// SPDX-License-Identifier: Apache-2.0
//! The console's backend, and the end of it that each vmm gets.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use handover::host_resources::ConsoleKind;
use nix::poll::PollFlags;

use super::console::{History, Hub};
use super::poll::{Interests, Token};

/// The supervisor's side of the console.
#[derive(Debug)]
pub(crate) enum ConsoleBackend {
    /// The clients of a socket.
    Hub {
        /// Relays between the vmm and a client.
        hub: Hub,
        /// The socket's path.
        path: PathBuf,
    },
    /// A pseudo-terminal.
    Pty {
        /// The primary side, for the vmm.
        primary: OwnedFd,
        /// The secondary side, kept open so that the primary never hangs up.
        _secondary: OwnedFd,
        /// The path that the user opens.
        path: String,
    },
    /// A file, or /dev/null.
    Fixed(File),
}

impl ConsoleBackend {
    /// Takes what the jailer opened.
    pub(crate) fn new(kind: ConsoleKind) -> Self {
        match kind {
            ConsoleKind::Socket {
                listener,
                client,
                path,
            } => Self::Hub {
                hub: Hub::new(listener, client),
                path,
            },
            ConsoleKind::Pty {
                primary,
                secondary,
                path,
            } => Self::Pty {
                primary,
                _secondary: secondary,
                path,
            },
            ConsoleKind::Fixed(file) => Self::Fixed(file),
        }
    }

    /// Makes the end for a new vmm, which keeps the guest of the one before or not.
    pub(crate) fn for_vmm(&mut self, keeps: bool) -> io::Result<OwnedFd> {
        match self {
            Self::Hub { hub, .. } => hub.connect_vmm(keeps),
            Self::Pty { primary, .. } => primary.try_clone(),
            Self::Fixed(file) => Ok(file.try_clone()?.into()),
        }
    }

    /// The path of the pseudo-terminal, if it is one.
    pub(crate) fn pty(&self) -> Option<&str> {
        match self {
            Self::Pty { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The path of the socket, if it is one.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Hub { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The last of what the guest has written, if it comes through here.
    pub(crate) fn history(&self) -> Option<&History> {
        match self {
            Self::Hub { hub, .. } => Some(hub.history()),
            Self::Pty { .. } | Self::Fixed(_) => None,
        }
    }

    /// Adds the descriptors that the console waits for.
    pub(crate) fn interests<'a>(&'a self, interests: &mut Interests<'a>) {
        if let Self::Hub { hub, .. } = self {
            hub.interests(interests);
        }
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        match self {
            Self::Hub { hub, .. } => hub.deadline_ns(),
            Self::Pty { .. } | Self::Fixed(_) => None,
        }
    }

    /// Handles a deadline that has passed.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        if let Self::Hub { hub, .. } = self {
            hub.tick(now_ns);
        }
    }

    /// Handles a descriptor that is ready.
    pub(crate) fn ready(&mut self, token: Token, events: PollFlags, now_ns: u64) {
        if let Self::Hub { hub, .. } = self {
            hub.ready(token, events, now_ns);
        }
    }

    /// The last vmm is dead.
    pub(crate) fn end(&mut self, now_ns: u64) {
        if let Self::Hub { hub, .. } = self {
            hub.end(now_ns);
        }
    }

    /// Whether all output of dead vmms has reached the client, or never will.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Self::Hub { hub, .. } => hub.is_drained(),
            Self::Pty { .. } | Self::Fixed(_) => true,
        }
    }
}
