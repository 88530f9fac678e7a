// SPDX-License-Identifier: Apache-2.0
//! What becomes of a process that touches memory which is not there.

use nix::sys::signal::{SigHandler, Signal, signal};

/// Lets SIGSEGV and SIGBUS end the process as themselves. Rust's own handler would call what no
/// filter allows, and the death would be told as one of the filter.
#[allow(unsafe_code)]
pub(crate) fn are_what_they_are() {
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action runs no code of this process.
        let _ = unsafe { signal(fault, SigHandler::SigDfl) };
    }
}
