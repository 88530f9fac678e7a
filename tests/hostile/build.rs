// SPDX-License-Identifier: Apache-2.0
//! Compiles the filters of all processes, for the probe to be confined by.

use std::path::Path;

use host::seccomp::compile::{CompileError, compile};

fn main() -> Result<(), CompileError> {
    for package in ["vmm", "blk-backend", "net-backend", "input-backend"] {
        let table = Path::new("../..").join(package).join("seccomp.json");
        compile(&table, &format!("{package}.rs"))?;
    }
    Ok(())
}
