// SPDX-License-Identifier: Apache-2.0
//! What becomes of a process that touches memory which is not there, or writes more to a file than its
//! limits allow.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Lets SIGSEGV and SIGBUS end the process as themselves. Rust's own handler would call what no
/// filter allows, and the death would be told as one of the filter.
#[allow(unsafe_code)]
pub(crate) fn reset_fault_signals() {
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action runs no code of this process.
        let _ = unsafe { signal(fault, SigHandler::SigDfl) };
    }
}

/// Has a write beyond the limit on file sizes (`ulimit -f`) fail with EFBIG, which the driver is told,
/// instead of ending the process. The jail does so for those that were launched.
pub(crate) fn survive_file_limits() {
    // It can be refused for SIGKILL and SIGSTOP alone.
    let _ = host::signals::ignore(Signal::SIGXFSZ);
}
