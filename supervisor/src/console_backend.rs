// SPDX-License-Identifier: Apache-2.0
//! Where the console leads, and the end of it that each vmm gets.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use handover::host_resources::ConsoleKind;
use nix::poll::PollFlags;

use super::console::Hub;
use super::poll::{Interests, Token};

/// The supervisor's side of the console.
#[derive(Debug)]
pub(crate) enum ConsoleBackend {
    /// Relayed to the clients of a socket.
    Hub {
        /// What relays.
        hub: Hub,
        /// The socket.
        path: PathBuf,
    },
    /// A pseudo-terminal.
    Pty {
        /// The vmm's side.
        primary: OwnedFd,
        /// The user's side, kept open so that the primary never hangs up.
        _secondary: OwnedFd,
        /// Where the user opens it.
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

    /// The end for a new vmm.
    pub(crate) fn for_vmm(&mut self) -> io::Result<OwnedFd> {
        match self {
            Self::Hub { hub, .. } => hub.connect_vmm(),
            Self::Pty { primary, .. } => primary.try_clone(),
            Self::Fixed(file) => Ok(file.try_clone()?.into()),
        }
    }

    /// The pseudo-terminal, if it is one.
    pub(crate) fn pty(&self) -> Option<&str> {
        match self {
            Self::Pty { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The socket, if it is one.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Hub { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Adds what the console waits for.
    pub(crate) fn interests<'a>(&'a self, interests: &mut Interests<'a>) {
        if let Self::Hub { hub, .. } = self {
            hub.interests(interests);
        }
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        match self {
            Self::Hub { hub, .. } => hub.deadline_ns(),
            Self::Pty { .. } | Self::Fixed(_) => None,
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        if let Self::Hub { hub, .. } = self {
            hub.tick(now_ns);
        }
    }

    /// A descriptor is ready.
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

    /// Whether everything that dead vmms wrote is where it should be.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            Self::Hub { hub, .. } => hub.is_drained(),
            Self::Pty { .. } | Self::Fixed(_) => true,
        }
    }
}
