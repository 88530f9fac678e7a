// SPDX-License-Identifier: Apache-2.0
//! Compiles the filters of all processes, for the intruder to be confined by.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let (arch, output) = (
        std::env::var("CARGO_CFG_TARGET_ARCH")?,
        std::env::var("OUT_DIR")?,
    );
    for package in ["vmm", "blk-backend", "net-backend"] {
        let table = Path::new("..").join(package).join("seccomp.json");
        println!("cargo::rerun-if-changed={}", table.display());
        let output = Path::new(&output).join(format!("{package}.rs"));
        launch::seccomp::compile::compile(&table, &arch, &output)?;
    }
    Ok(())
}
