// SPDX-License-Identifier: Apache-2.0
//! How a run of the jailer ended: an exit status and what to say about it.

use std::fmt::Display;

use ipc::broker::Status;

/// An exit status and the lines that explain it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status.
    pub status: Status,
    /// For the user, each one line.
    pub lines: Vec<String>,
}

impl Outcome {
    /// An outcome with one line for each of `lines`.
    pub fn new(status: Status, lines: impl IntoIterator<Item = impl Display>) -> Self {
        let lines = lines.into_iter().map(|line| line.to_string()).collect();
        Self { status, lines }
    }

    /// Success, with nothing to say.
    pub fn ok() -> Self {
        Self {
            status: Status::Ok,
            lines: Vec::new(),
        }
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
