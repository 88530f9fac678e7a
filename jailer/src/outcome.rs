// SPDX-License-Identifier: Apache-2.0
//! How a run of the jailer ended: an exit status and what to say about it.

use std::fmt::Display;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// The exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// The guest powered off, or the VM was ended as asked.
    Ok,
    /// Something failed.
    Error,
    /// The command line is wrong.
    Usage,
    /// The guest panicked or crashed.
    Guest,
    /// This signal ended the VM, and the guest was not waited for: 128 and its number, as shells say.
    Signal(u8),
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Ok => 0,
            Status::Error => 1,
            Status::Usage => 2,
            Status::Guest => 3,
            Status::Signal(number) => number.saturating_add(128),
        })
    }
}

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

    /// All is well, and there is nothing to say.
    pub fn ok() -> Self {
        Self {
            status: Status::Ok,
            lines: Vec::new(),
        }
    }

    /// Tells the user.
    pub fn print(&self) {
        for line in &self.lines {
            say(line);
        }
    }
}

/// One line for the user on file descriptor 2.
pub fn say(line: &str) {
    host::output::say("jailer", line);
}
