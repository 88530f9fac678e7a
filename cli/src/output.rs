// SPDX-License-Identifier: Apache-2.0
//! Answers on standard output, complaints on standard error.

use std::io::{self, Write};

use crate::error::Error;

/// Writes an answer. A reader that has seen enough is no error.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::output(e)),
        _ => Ok(()),
    }
}

/// Says in one line what went wrong, with its causes.
pub(crate) fn complain(error: &dyn std::error::Error) {
    complain_line(&host::log::chain(error));
}

/// Says one line.
pub(crate) fn complain_line(line: &str) {
    host::output::say("bulkhead", line);
}
