// SPDX-License-Identifier: Apache-2.0
//! Signals as events.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::terminal::TerminalError;

/// What ends us, and what tells of children.
const USUAL: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGCHLD,
];

/// Blocks what ends us, what tells of children, and `more`; all are read from what is returned.
pub(crate) fn take_over(more: &[Signal]) -> Result<SignalFd, TerminalError> {
    let mask: SigSet = USUAL.iter().chain(more).copied().collect();
    mask.thread_set_mask().map_err(TerminalError::Signals)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&mask, flags).map_err(TerminalError::Signals)
}

/// The signals that have come.
pub(crate) fn received(fd: &SignalFd) -> Vec<Signal> {
    std::iter::from_fn(|| fd.read_signal().ok().flatten())
        .filter_map(|info| Signal::try_from(info.ssi_signo.cast_signed()).ok())
        .collect()
}
