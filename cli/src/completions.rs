// SPDX-License-Identifier: Apache-2.0
//! Shell completions and man pages, generated from the definitions of the command line.

use std::io;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::error::Error;
use crate::output;

/// Man pages cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("man {0:?}")]
pub(crate) struct ManError(PathBuf, #[source] io::Error);

/// `bulkhead completions`.
pub(crate) fn completions(shell: Shell) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "bulkhead", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}

impl From<ManError> for Error {
    fn from(error: ManError) -> Self {
        Self::new(error)
    }
}

/// `bulkhead man`: a page for the command and one for each verb.
pub(crate) fn man(dir: &Path) -> Result<(), Error> {
    let made = std::fs::create_dir_all(dir);
    let written = made.and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    Ok(written.map_err(|e| ManError(dir.into(), e))?)
}
