// SPDX-License-Identifier: Apache-2.0
//! A verb that failed: what the user is told, and the exit status. Each module turns its own errors into
//! one; this module knows none of them.

use std::fmt;
use std::io;
use std::path::PathBuf;

use spec::{SpecError, VmName};

use crate::jailer;

/// The exit status of a verb that failed.
const FAILED: u8 = 1;
/// The exit status of a command line that is wrong.
const USAGE: u8 = 2;

/// A verb failed.
#[derive(Debug)]
pub(crate) struct Error {
    cause: Box<dyn std::error::Error + Send + Sync>,
    status: u8,
    dead: Option<(PathBuf, VmName)>,
}

/// The answer could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct OutputError(#[source] io::Error);

impl Error {
    /// Something failed.
    pub(crate) fn new(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self {
            cause: Box::new(cause),
            status: FAILED,
            dead: None,
        }
    }

    /// The answer could not be written to standard output.
    pub(crate) fn output(cause: io::Error) -> Self {
        Self::new(OutputError(cause))
    }

    /// The same, about a VM below `base` whose jailer was killed.
    pub(crate) fn about_dead(mut self, base: PathBuf, vm: VmName) -> Self {
        self.dead = Some((base, vm));
        self
    }

    /// Removes what is left of a VM whose jailer was killed, if that is what the error is about.
    pub(crate) fn clean_up(&self) {
        if let Some((base, vm)) = &self.dead {
            jailer::sweep(base, vm);
        }
    }

    /// The exit status: 2 for what was wrong with the command line itself, otherwise 1.
    pub(crate) fn status(&self) -> u8 {
        self.status
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

/// A flag holds what it must not.
impl From<SpecError> for Error {
    fn from(cause: SpecError) -> Self {
        Self {
            status: USAGE,
            ..Self::new(cause)
        }
    }
}
