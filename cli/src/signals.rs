// SPDX-License-Identifier: Apache-2.0
//! Signals as events.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::terminal::TerminalError;

/// Blocks what ends us, and what tells of children and of windows; both are read from what is returned.
pub(crate) fn take_over() -> Result<SignalFd, TerminalError> {
    let signals = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGCHLD,
        Signal::SIGWINCH,
    ];
    let mask: SigSet = signals.into_iter().collect();
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
