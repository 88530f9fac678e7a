// SPDX-License-Identifier: Apache-2.0
//! Signals become a file descriptor before anything is opened, so that none can end the jailer with
//! something left behind.

use host::signals::{ignore, is_ignored, reset};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What asks the VM to end.
const ASKING: [Signal; 4] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// The signals cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[error("cannot take over signals")]
pub(crate) struct SignalError(#[source] nix::Error);

/// Blocks the signals that ask the VM to end; they are read from what is returned. Those that the
/// starter had ignored stay so (nohup, a shell's background), but for SIGTERM: it is the one way in
/// which service managers ask.
pub(crate) fn take_over() -> Result<SignalFd, SignalError> {
    let heard = |signal: &Signal| *signal == Signal::SIGTERM || !is_ignored(*signal);
    let mask: SigSet = ASKING.into_iter().filter(heard).collect();
    mask.thread_set_mask().map_err(SignalError)?;
    // An ignored SIGCHLD would have the kernel reap our children.
    for signal in [Signal::SIGTERM, Signal::SIGCHLD] {
        reset(signal).map_err(SignalError)?;
    }
    // A file that may not grow so far is an error that names it, not our death.
    ignore(Signal::SIGXFSZ).map_err(SignalError)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&mask, flags).map_err(SignalError)
}
