// SPDX-License-Identifier: Apache-2.0
//! Compiles the seccomp filters.

use std::env::var;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=seccomp.json");
    let output = Path::new(&var("OUT_DIR")?).join("seccomp.rs");
    let arch = var("CARGO_CFG_TARGET_ARCH")?;
    launch::seccomp::compile::compile(Path::new("seccomp.json"), &arch, &output)?;
    Ok(())
}
