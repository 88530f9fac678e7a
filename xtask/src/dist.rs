// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask dist`: static release binaries in `dist/`.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::command::file_name;
use crate::compile;

/// Builds them and says where they are.
pub(crate) fn run() -> Result<ExitCode> {
    let dist = compile::root()?.join("dist");
    let binaries = compile::shipped()?;
    fs::create_dir_all(&dist).with_context(|| format!("cannot make {}", dist.display()))?;
    for binary in binaries {
        let target = dist.join(file_name(&binary));
        // Removed first: a running program cannot be written to.
        let _ = fs::remove_file(&target);
        let size = fs::copy(&binary, &target)
            .with_context(|| format!("cannot write {}", target.display()))?;
        println!("dist/{} ({} KiB)", file_name(&target), size / 1024);
    }
    Ok(ExitCode::SUCCESS)
}
