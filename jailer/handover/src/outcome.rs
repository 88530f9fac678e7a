// SPDX-License-Identifier: Apache-2.0
//! How a run of the jailer ended: an exit status, why, and what to say about it.

use std::fmt::Display;

use ipc::broker::{Reason, Status};

/// An exit status and the lines that explain it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status.
    pub status: Status,
    /// Why the VM ended, if it ran.
    pub reason: Reason,
    /// For the user, each one line.
    pub lines: Vec<String>,
}

impl Outcome {
    /// An outcome with one line for each of `lines`, for the usual reason of this status.
    pub fn new(status: Status, lines: impl IntoIterator<Item = impl Display>) -> Self {
        Self {
            status,
            reason: match status {
                Status::Ok => Reason::PowerOff,
                Status::Error | Status::Usage => Reason::HostError,
                Status::Guest => Reason::Crash,
                Status::Signal(_) => Reason::Signal,
            },
            lines: lines.into_iter().map(|line| line.to_string()).collect(),
        }
    }

    /// The same outcome for another reason.
    #[must_use]
    pub fn because(self, reason: Reason) -> Self {
        Self { reason, ..self }
    }

    /// Success, with nothing to say.
    pub fn ok() -> Self {
        Self::new(Status::Ok, [""; 0])
    }

    /// Prints the lines for the user.
    pub fn print(&self) {
        for line in &self.lines {
            say(line);
        }
    }
}

/// Prints one line for the user on file descriptor 2.
pub fn say(line: &str) {
    host::output::say("jailer", line);
}
