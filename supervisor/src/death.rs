// SPDX-License-Identifier: Apache-2.0
//! How a process ended, and the words for it.

use std::fmt;

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// It exited.
    Exited(i32),
    /// A signal killed it.
    Signalled(Signal),
    /// It was never executed: the step that failed, and why.
    NotExecuted(&'static str, Errno),
    /// It is gone, and the kernel did not tell how it ended.
    Unknown,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            // It has no file mapped that could shrink: its memory is sealed.
            Self::Signalled(Signal::SIGBUS) => f.write_str(
                "was killed by SIGBUS: the host could not give it a page of memory (a faulty page, or no \
                 huge page left)",
            ),
            Self::Signalled(signal) => write!(f, "was killed by {signal}"),
            Self::NotExecuted(step, errno) => {
                write!(f, "did not start: cannot {step}: {}", errno.desc())
            }
            Self::Unknown => f.write_str("is gone"),
        }
    }
}
