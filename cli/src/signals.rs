// SPDX-License-Identifier: Apache-2.0
//! Signals as events.

use std::os::fd::{AsFd, BorrowedFd};

use host::signals::{is_ignored, reset};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::terminal::TerminalError;

/// The signals that end us, and SIGCHLD.
const USUAL: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGCHLD,
];

/// Signals that are read from a descriptor as long as this lives. Dropping it restores the signal
/// mask, so that a final write that blocks can be interrupted.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
    before: SigSet,
}

/// Blocks the signals that end us, SIGCHLD, and `more`, and returns the descriptor that reads them.
/// Does not touch signals that we inherited as ignored (nohup, a shell's background), except
/// SIGTERM and SIGCHLD.
pub(crate) fn take_over(more: &[Signal]) -> Result<Signals, TerminalError> {
    let always = [Signal::SIGTERM, Signal::SIGCHLD];
    for signal in always {
        reset(signal).map_err(TerminalError::Signals)?;
    }
    let heard = |signal: &Signal| !is_ignored(*signal);
    let mask: SigSet = USUAL.iter().chain(more).copied().filter(heard).collect();
    let before = mask.thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let before = before.map_err(TerminalError::Signals)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let fd = SignalFd::with_flags(&mask, flags).map_err(TerminalError::Signals)?;
    Ok(Signals { fd, before })
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

/// The signals that have arrived.
pub(crate) fn received(signals: &Signals) -> Vec<Signal> {
    std::iter::from_fn(|| signals.fd.read_signal().ok().flatten())
        .filter_map(|info| Signal::try_from(info.ssi_signo.cast_signed()).ok())
        .collect()
}
