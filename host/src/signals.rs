// SPDX-License-Identifier: Apache-2.0
//! Signal dispositions: as the process inherited them, and as it sets them (signal(7)). "Ignored"
//! is inherited through execve; handlers are not.

#![allow(unsafe_code)]

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Whether this process ignores a signal; false if the kernel does not say.
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: no new action is given; the old one is written to a place of its size.
    let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: zeroes are a valid sigaction, and so is what the kernel wrote over them.
    let action = unsafe { action.assume_init() };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Resets a signal to its default action. Safe between fork and exec: one system call, no
/// allocation.
///
/// # Errors
/// The kernel's, only for SIGKILL and SIGSTOP.
pub fn reset(signal: Signal) -> nix::Result<()> {
    set(signal, SigHandler::SigDfl)
}

/// Ignores a signal.
///
/// # Errors
/// As those of [`reset`].
pub fn ignore(signal: Signal) -> nix::Result<()> {
    set(signal, SigHandler::SigIgn)
}

fn set(signal: Signal, handler: SigHandler) -> nix::Result<()> {
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: the callers pass SigDfl and SigIgn only: no handler of ours will ever run.
    unsafe { sigaction(signal, &action) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_is_ignored_until_it_is_reset() {
        // Nothing else in this process is about SIGWINCH.
        let signal = Signal::SIGWINCH;
        assert!(!is_ignored(signal));
        ignore(signal).unwrap();
        assert!(is_ignored(signal));
        reset(signal).unwrap();
        assert!(!is_ignored(signal));
    }
}
