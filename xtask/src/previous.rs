// SPDX-License-Identifier: Apache-2.0
//! Programs of another revision, built beside ours, to run both in one VM.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::command::{command, piped};
use crate::{compile, progress};

/// Builds a revision; the directory with its programs. What was built before is used again.
pub(crate) fn ready(revision: &str) -> Result<PathBuf> {
    let commit = commit(revision)?;
    let place = compile::target_dir()?.join("previous");
    let source = place.join(&commit);
    if !source.exists() {
        unpack(&commit, &source)?;
    }
    let mut cargo = compile::cargo()?;
    cargo
        .current_dir(&source)
        // Of its own: sources are as old as their commits, so that cargo would take what another revision
        // has built since for newer.
        .env("CARGO_TARGET_DIR", place.join("build").join(&commit))
        .args(["build", "--quiet", "--release", "--workspace", "--bins"])
        .args(["--exclude", "xtask", "--exclude", "fuzz"])
        .arg("--message-format=json-render-diagnostics");
    let built = progress::step(&format!("building {revision}"), || {
        Ok(cargo.stderr(Stdio::inherit()).output()?)
    })?;
    ensure!(built.status.success(), "{revision} does not build");
    let programs = compile::executables(&String::from_utf8_lossy(&built.stdout))?;
    let dir = programs.first().and_then(|path| path.parent());
    Ok(dir.context("the build made no program")?.to_owned())
}

fn commit(revision: &str) -> Result<String> {
    let output = Command::new("git")
        .current_dir(compile::root()?)
        .args(["rev-parse", "--verify", "--end-of-options"])
        .arg(format!("{revision}^{{commit}}"))
        .output()
        .context("git")?;
    ensure!(output.status.success(), "there is no revision {revision}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn unpack(commit: &str, source: &Path) -> Result<()> {
    let partial = source.with_extension("partial");
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial)?;
    let mut archive = command("git", ["archive", commit]);
    archive.current_dir(compile::root()?);
    let mut tar = command("tar", ["-xC"]);
    piped(&mut archive, tar.arg(&partial))?;
    Ok(std::fs::rename(&partial, source)?)
}
