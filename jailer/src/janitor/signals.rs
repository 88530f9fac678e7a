// SPDX-License-Identifier: Apache-2.0
//! Signals become a file descriptor before anything is opened, so that none can end the jailer with
//! something left behind.

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What asks the VM to end.
const ASKING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The signals cannot be taken over.
#[derive(Debug, thiserror::Error)]
#[error("cannot take over signals")]
pub(crate) struct SignalError(#[source] nix::Error);

/// Blocks the signals that ask the VM to end; they are read from what is returned.
pub(crate) fn take_over() -> Result<SignalFd, SignalError> {
    let mask: SigSet = ASKING.into_iter().collect();
    mask.thread_set_mask().map_err(SignalError)?;
    // Whoever started us may have had them ignored, and an ignored SIGCHLD reaps children for us.
    for signal in ASKING.into_iter().chain([Signal::SIGCHLD]) {
        default(signal).map_err(SignalError)?;
    }
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&mask, flags).map_err(SignalError)
}

#[allow(unsafe_code)]
fn default(signal: Signal) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the action is the default one: no handler of ours will ever run.
    unsafe { sigaction(signal, &action) }.map(drop)
}
