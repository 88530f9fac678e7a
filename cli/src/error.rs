// SPDX-License-Identifier: Apache-2.0
//! What can go wrong in a verb, and the exit status that says so.

use std::io;

use spec::SpecError;

use crate::client::ClientError;
use crate::documents::DocumentsError;
use crate::jailer;
use crate::run::RunError;
use crate::shell::ManError;
use crate::terminal::TerminalError;

/// A verb failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A flag holds what it must not.
    #[error(transparent)]
    Flag(#[from] SpecError),
    /// A file is no VM.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// A VM could not be started or waited for.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A VM could not be talked to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Man pages could not be written.
    #[error(transparent)]
    Man(#[from] ManError),
    /// The user's terminal could not be used.
    #[error(transparent)]
    Terminal(#[from] TerminalError),
    /// The answer could not be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Error {
    /// Sees to it that what a dead VM left does not stay for ever.
    pub(crate) fn clean_up(&self) {
        if let Self::Client(ClientError::Dead { vm, base }) = self {
            jailer::sweep(base, vm);
        }
    }

    /// The exit status: 2 for what was wrong with the command line itself, otherwise 1.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Flag(_) => 2,
            _ => 1,
        }
    }
}
