// SPDX-License-Identifier: Apache-2.0
//! Results on standard output, errors on standard error.

use std::io::{self, Write};

use serde::Serialize;
use spec::VmName;

use crate::error::{self, Error};

/// Writes a result. A reader that closes the pipe early is not an error.
pub(crate) fn print(text: &str) -> Result<(), Error> {
    write(text.as_bytes())
}

/// Writes a result that need not be text.
pub(crate) fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::output(e)),
        _ => Ok(()),
    }
}

/// Writes a result as JSON.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value);
    print(&(text.map_err(|e| Error::output(e.into()))? + "\n"))
}

/// Tells a program that what it asked for is done; a person sees that the prompt is back.
pub(crate) fn acted(json: bool, vm: &VmName, verb: &'static str) -> Result<(), Error> {
    match json {
        true => print_json(&Acted { vm, verb }),
        false => Ok(()),
    }
}

/// What was done to which VM.
#[derive(Debug, Serialize)]
struct Acted<'a> {
    vm: &'a VmName,
    verb: &'static str,
}

/// Reports an error with its causes, on one line.
pub(crate) fn complain(error: &dyn std::error::Error) {
    complain_line(&host::log::chain(error));
}

/// Reports the error of a verb as JSON, on one line.
pub(crate) fn complain_json(error: &Error) {
    let line = serde_json::to_string(&error::Shown::from(error)).unwrap_or_default();
    // If no process reads it, the exit status tells.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Reports an error on one line.
pub(crate) fn complain_line(line: &str) {
    host::output::say("bulkhead", line);
}
