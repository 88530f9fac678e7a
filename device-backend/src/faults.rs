// SPDX-License-Identifier: Apache-2.0
//! Signals for accesses to unmapped memory and for writes beyond the file size limit.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Restores the default action of SIGSEGV and SIGBUS. Rust's own handler makes calls that no filter
/// allows, so that the process would seem to have died of a seccomp violation.
#[allow(unsafe_code)]
pub(crate) fn reset_fault_signals() {
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action runs no code of this process.
        let _ = unsafe { signal(fault, SigHandler::SigDfl) };
    }
}

/// Makes a write beyond the file size limit (`ulimit -f`) fail with EFBIG, which the backend
/// reports to the driver, instead of killing the process. The jailer does so for supervised
/// backends.
pub(crate) fn survive_file_limits() {
    // Only SIGKILL and SIGSTOP are refused.
    let _ = host::signals::ignore(Signal::SIGXFSZ);
}
