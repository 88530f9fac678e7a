// SPDX-License-Identifier: Apache-2.0
//! Compiles `seccomp.json` into the filters of `src/seccomp.rs`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=seccomp.json");
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH")?;
    let output = std::env::var("OUT_DIR")?;
    let output = Path::new(&output).join("filters.rs");
    Ok(launch::seccomp::compile::compile(
        Path::new("seccomp.json"),
        &arch,
        &output,
    )?)
}
