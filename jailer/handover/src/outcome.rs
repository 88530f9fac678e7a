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

    /// The same outcome, whose first line also says how many processes of the VM the kernel has killed
    /// for want of memory, if any.
    #[must_use]
    pub fn with_oom_kills(mut self, count: u64) -> Self {
        if let Some(line) = self.lines.first_mut().filter(|_| count > 0) {
            *line = format!(
                "{line}; the host or a control group had no memory left, and the kernel has killed \
                 {count} of the VM's processes"
            );
        }
        self
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn want_of_memory_is_told_behind_what_was_seen() {
        let seen = Outcome::new(Status::Error, ["the vmm was killed by SIGKILL", "log: x"]);
        assert_eq!(seen.clone().with_oom_kills(0), seen);
        let told = seen.clone().with_oom_kills(2);
        assert!(told.lines[0].starts_with("the vmm was killed by SIGKILL; the host or"));
        assert!(told.lines[0].contains("killed 2 of"), "{told:?}");
        assert_eq!((&told.lines[1], told.reason), (&seen.lines[1], seen.reason));
        assert_eq!(Outcome::ok().with_oom_kills(1), Outcome::ok());
    }
}
