// SPDX-License-Identifier: Apache-2.0
//! The only place where the supervisor waits.

use std::os::fd::BorrowedFd;

use ipc::slot::DeviceSlot;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A client of the API. Numbers are not used again while the supervisor lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// The jailer has sent something.
    Jailer,
    /// The vmm has exited.
    Exit,
    /// The vmm has sent something.
    Control,
    /// The backend of one of our own devices has exited.
    BackendExit(DeviceSlot),
    /// The backend of one of our own devices has sent something.
    BackendControl(DeviceSlot),
    /// A new API client.
    ApiListener,
    /// An API client.
    Api(ConnectionId),
    /// A new console client.
    ConsoleListener,
    /// The console's client.
    ConsoleClient,
    /// The vmm's end of the console.
    ConsoleVmm,
}

/// The descriptors to wait for, gathered anew for each wait.
#[derive(Debug, Default)]
pub(crate) struct Interests<'a> {
    tokens: Vec<Token>,
    fds: Vec<PollFd<'a>>,
}

impl<'a> Interests<'a> {
    /// Adds a descriptor; hang-ups and errors are always reported.
    pub(crate) fn add(&mut self, token: Token, fd: BorrowedFd<'a>, events: PollFlags) {
        self.tokens.push(token);
        self.fds.push(PollFd::new(fd, events));
    }

    /// Waits until something happens or `wait_ns` have passed; forever if there is no such limit.
    pub(crate) fn wait(mut self, wait_ns: Option<u64>) -> nix::Result<Vec<(Token, PollFlags)>> {
        let timeout = match wait_ns {
            None => PollTimeout::NONE,
            // Rounded up: a deadline must have passed when we wake for it.
            Some(ns) => PollTimeout::try_from(ns.div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX),
        };
        match poll(&mut self.fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
        let ready = self.tokens.iter().zip(&self.fds).filter_map(|(token, fd)| {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            (!events.is_empty()).then_some((*token, events))
        });
        Ok(ready.collect())
    }
}

/// The earlier of two deadlines.
pub(crate) fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
