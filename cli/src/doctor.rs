// SPDX-License-Identifier: Apache-2.0
//! `bulkhead doctor`: what this host can give a VM, as the jailer finds it.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::Error;
use crate::jailer;
use crate::output;

/// The jailer cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("jailer {0:?}: it belongs beside bulkhead")]
struct DoctorError(std::path::PathBuf, #[source] io::Error);

/// What the jailer says, as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// What this host has and lacks.
    host: Vec<&'a str>,
    /// Why no VM can be started; empty if one can.
    errors: Vec<&'a str>,
    status: u8,
}

/// Reports; returns the jailer's exit status.
pub(crate) fn doctor(json: bool) -> Result<u8, Error> {
    let examined = jailer::doctor().map_err(|e| Error::new(DoctorError(jailer::path(), e)))?;
    let [said, errors] = &examined.said;
    if json {
        output::print_json(&Report {
            host: said.lines().collect(),
            errors: errors.lines().collect(),
            status: examined.status,
        })?;
    } else {
        output::print(said)?;
        // If no process reads it, the exit status tells.
        let _ = io::stderr().write_all(errors.as_bytes());
    }
    Ok(examined.status)
}
