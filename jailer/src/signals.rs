// SPDX-License-Identifier: Apache-2.0
//! The jailer reads signals from a file descriptor from before it opens anything, so that no signal
//! can end it and leave something behind.

use host::signals::{ignore, is_ignored, reset};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask the VM to end.
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

/// Blocks the signals that ask the VM to end; the jailer reads them from the returned descriptor. A
/// signal that the starter ignored stays ignored (nohup, a background job of a shell), except
/// SIGTERM: service managers ask in no other way.
pub(crate) fn take_over() -> Result<SignalFd, SignalError> {
    let heard = |signal: &Signal| *signal == Signal::SIGTERM || !is_ignored(*signal);
    let mask: SigSet = ASKING.into_iter().filter(heard).collect();
    mask.thread_set_mask().map_err(SignalError)?;
    // If SIGCHLD were ignored, the kernel would reap our children.
    for signal in [Signal::SIGTERM, Signal::SIGCHLD] {
        reset(signal).map_err(SignalError)?;
    }
    // Growing a file beyond RLIMIT_FSIZE must be an error that names the file, and not kill the
    // jailer.
    ignore(Signal::SIGXFSZ).map_err(SignalError)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&mask, flags).map_err(SignalError)
}
