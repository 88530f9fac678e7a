// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask dist`: static release binaries in `dist/`, with man pages and what shells need to
//! complete the command line.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

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
    document(&dist)?;
    Ok(ExitCode::SUCCESS)
}

/// What the command says of itself, where packages expect it.
fn document(dist: &Path) -> Result<()> {
    let bulkhead = |args: &[&str]| -> Result<Vec<u8>> {
        let program = dist.join("bulkhead");
        let output = Command::new(&program).args(args).output();
        let output = output.with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(
            output.status.success(),
            "bulkhead {} failed",
            args.join(" ")
        );
        Ok(output.stdout)
    };
    let man = dist.join("man");
    bulkhead(&["man", &man.display().to_string()])?;
    let completions = dist.join("completions");
    fs::create_dir_all(&completions)?;
    for (shell, file) in [
        ("bash", "bulkhead"),
        ("zsh", "_bulkhead"),
        ("fish", "bulkhead.fish"),
    ] {
        fs::write(completions.join(file), bulkhead(&["completions", shell])?)?;
    }
    println!("dist/man, dist/completions (bash, zsh, fish)");
    Ok(())
}
