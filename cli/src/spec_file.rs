// SPDX-License-Identifier: Apache-2.0
//! VMs as JSON files: `check`, `schema`, and `run --config`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use host::file::open_regular;
use spec::{DOCUMENT_MAX_BYTES, DocumentError, SpecError, Vm, VmSpec};

use crate::error::Error;
use crate::output;

/// Why a file cannot be used as a VM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpecFileError {
    /// It could not be read.
    #[error("config {0:?}")]
    Read(PathBuf, #[source] io::Error),
    /// It does not have the right shape.
    #[error("config {0:?}")]
    Shape(PathBuf, #[source] DocumentError),
    /// Its settings are invalid.
    #[error("config {0:?}")]
    Spec(PathBuf, #[source] SpecError),
    /// The schema could not be written as JSON.
    #[error("cannot write the schema")]
    Schema(#[source] serde_json::Error),
}

impl From<SpecFileError> for Error {
    fn from(error: SpecFileError) -> Self {
        Self::new(error)
    }
}

/// Reads a VM from a JSON file, of which only the shape is checked.
pub(crate) fn read(path: &Path) -> Result<VmSpec, SpecFileError> {
    let mut text = Vec::new();
    let limit = DOCUMENT_MAX_BYTES as u64 + 1;
    open_regular(path)
        .and_then(|file| file.take(limit).read_to_end(&mut text))
        .map_err(|e| SpecFileError::Read(path.into(), e))?;
    VmSpec::from_json(&text).map_err(|e| SpecFileError::Shape(path.into(), e))
}

/// `bulkhead check`: all that can be checked without looking at the host. As JSON also what a manager
/// needs to place the VM.
pub(crate) fn check(path: &Path, json: bool) -> Result<(), Error> {
    let spec = read(path)?;
    let (name, cpus, mem_mib) = (spec.name.clone(), spec.cpus, spec.mem.0.div_ceil(1 << 20));
    Vm::try_from(spec).map_err(|e| SpecFileError::Spec(path.into(), e))?;
    match json {
        true => output::print_json(&serde_json::json!({
            "config": path, "ok": true, "name": name, "cpus": cpus, "mem_mib": mem_mib,
        })),
        false => output::print(&format!("{}: ok\n", path.display())),
    }
}

/// `bulkhead schema`.
pub(crate) fn schema(api: bool) -> Result<(), Error> {
    let schema = match api {
        true => crate::openapi::document(),
        false => schemars::schema_for!(VmSpec).to_value(),
    };
    let text = serde_json::to_string_pretty(&schema).map_err(SpecFileError::Schema)?;
    output::print(&format!("{text}\n"))
}
