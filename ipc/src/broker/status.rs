// SPDX-License-Identifier: Apache-2.0
//! The exit status of the jailer.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// How the jailer exits.
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
    /// This signal ended the VM before the guest had shut down: 128 plus its number, as in shells.
    Signal(u8),
}

impl Status {
    /// The number of the status.
    pub fn number(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::Guest => 3,
            Self::Signal(number) => number.saturating_add(128),
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_the_number_that_scripts_know() {
        let numbers = [
            (Status::Ok, 0),
            (Status::Error, 1),
            (Status::Usage, 2),
            (Status::Guest, 3),
            (Status::Signal(15), 143),
        ];
        for (status, number) in numbers {
            assert_eq!(status.number(), number);
            assert_eq!(ExitCode::from(status), ExitCode::from(number));
        }
    }
}
