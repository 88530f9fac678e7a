// SPDX-License-Identifier: Apache-2.0
//! The error of a verb: the message for the user, and the exit status. Each module converts its own
//! errors; this module does not depend on them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use serde::Serialize;
use spec::{SpecError, VmName};

use crate::jailer;

/// The exit status of a verb that failed.
pub(crate) const FAILED: u8 = 1;
/// The exit status of a command line that is wrong.
pub(crate) const USAGE: u8 = 2;
/// The exit status of a verb for a VM that is not there, or has ended.
pub(crate) const NO_VM: u8 = 4;
/// The exit status of a verb that the VM has refused.
pub(crate) const REFUSED: u8 = 5;
/// The exit status of a verb for a VM that is there but cannot be asked.
pub(crate) const CANNOT_ASK: u8 = 6;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) struct Error {
    cause: Box<dyn std::error::Error + Send + Sync>,
    status: u8,
    dead: Option<(PathBuf, VmName)>,
}

/// A verb was asked for JSON and prints none.
#[derive(Debug, thiserror::Error)]
#[error("--json: {verb} prints nothing for programs: use {instead}")]
struct NoJson {
    verb: &'static str,
    instead: &'static str,
}

/// Refuses `--json` of a verb that is for people.
pub(crate) fn no_json(verb: &'static str, instead: &'static str) -> Error {
    Error::new(NoJson { verb, instead }).with_status(USAGE)
}

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct OutputError(#[source] io::Error);

impl Error {
    /// An error with exit status 1.
    pub(crate) fn new(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self {
            cause: Box::new(cause),
            status: FAILED,
            dead: None,
        }
    }

    /// Standard output cannot be written.
    pub(crate) fn output(cause: io::Error) -> Self {
        Self::new(OutputError(cause))
    }

    /// The same error with another exit status.
    pub(crate) fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// Marks the error as caused by a VM below `base` whose jailer was killed.
    pub(crate) fn about_dead(mut self, base: PathBuf, vm: VmName) -> Self {
        self.dead = Some((base, vm));
        self
    }

    /// Removes what is left of a VM whose jailer was killed, if that caused the error.
    pub(crate) fn clean_up(&self) {
        if let Some((base, vm)) = &self.dead {
            jailer::sweep(base, vm);
        }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }
}

/// The error of a verb as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    error: String,
    /// What the exit status means.
    kind: &'static str,
    status: u8,
}

impl From<&Error> for Shown {
    fn from(error: &Error) -> Self {
        Self {
            error: host::log::chain(error),
            kind: match error.status {
                USAGE => "usage",
                NO_VM => "no-such-vm",
                REFUSED => "refused",
                CANNOT_ASK => "cannot-ask",
                _ => "failed",
            },
            status: error.status,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

/// A flag has an invalid value.
impl From<SpecError> for Error {
    fn from(cause: SpecError) -> Self {
        Self {
            status: USAGE,
            ..Self::new(cause)
        }
    }
}
