// SPDX-License-Identifier: Apache-2.0
//! Results on standard output, errors on standard error.

use std::io::{self, Write};

use crate::error::Error;

/// Writes a result. A reader that closes the pipe early is not an error.
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

/// Reports an error with its causes, on one line.
pub(crate) fn complain(error: &dyn std::error::Error) {
    complain_line(&host::log::chain(error));
}

/// Reports an error on one line.
pub(crate) fn complain_line(line: &str) {
    host::output::say("bulkhead", line);
}
