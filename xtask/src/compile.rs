// SPDX-License-Identifier: Apache-2.0
//! Static release binaries of the workspace.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::arch::Arch;
use crate::command::{file_name, output};
use crate::{progress, target};

/// The end-to-end runner.
pub(crate) const RUNNER: &str = "e2e";

/// The packages whose programs are not shipped.
const NOT_SHIPPED: [&str; 5] = ["xtask", "e2e", "loadgen", "hostile", "fuzz"];

/// The workspace's root.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map(Path::to_owned)
        .ok_or_else(|| anyhow!("the workspace has no root"))
}

/// Where cargo builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let root = root()?;
    Ok(std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root.join("target"), |dir| root.join(dir)))
}

/// The cargo that runs us.
pub(crate) fn cargo() -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command
        .current_dir(root()?)
        .stdin(std::process::Stdio::null());
    // These would take the place of the flags in .cargo/config.toml, which make programs static.
    command
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    // Cargo's own variables for us would make it think that other crates changed.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Builds everything that is shipped, and the end-to-end runner.
pub(crate) fn all(arch: Arch) -> Result<Vec<PathBuf>> {
    let everything = ["--workspace", "--exclude", "xtask", "--exclude", "fuzz"];
    let binaries = build(arch, &everything)?;
    ensure!(
        binaries.iter().any(|path| file_name(path) == RUNNER),
        "there is no {RUNNER}"
    );
    Ok(binaries)
}

/// The end-to-end runner among `binaries`, which has all others beside it.
pub(crate) fn runner(binaries: &[PathBuf]) -> Result<PathBuf> {
    let runner = binaries.iter().find(|path| file_name(path) == RUNNER);
    runner
        .cloned()
        .with_context(|| format!("the build made no {RUNNER}"))
}

/// Builds what is shipped.
pub(crate) fn shipped(arch: Arch) -> Result<Vec<PathBuf>> {
    let excluded = NOT_SHIPPED.iter().flat_map(|name| ["--exclude", name]);
    build(
        arch,
        &std::iter::once("--workspace")
            .chain(excluded)
            .collect::<Vec<_>>(),
    )
}

/// Those of `binaries`, made by [`all`], that are shipped.
pub(crate) fn shipped_among(binaries: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut cargo = cargo()?;
    cargo.args(["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_slice(&output(&mut cargo)?).context("cargo metadata")?;
    let names = programs(&metadata).context("cargo metadata")?;
    let shipped = binaries
        .iter()
        .filter(|path| names.contains(&file_name(path)));
    Ok(shipped.cloned().collect())
}

/// The names of the programs that are shipped, by what cargo knows of the workspace.
fn programs(metadata: &Value) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for package in metadata["packages"].as_array()? {
        if NOT_SHIPPED.contains(&package["name"].as_str()?) {
            continue;
        }
        for target in package["targets"].as_array()? {
            if target["kind"].as_array()?.iter().any(|kind| kind == "bin") {
                names.push(target["name"].as_str()?.to_owned());
            }
        }
    }
    Some(names)
}

/// A `bulkhead` that runs on this machine, to say what is the same for all: among `binaries`, or built
/// for it.
pub(crate) fn command(arch: Arch, binaries: &[PathBuf]) -> Result<PathBuf> {
    let own = match arch.is_own() {
        true => binaries.to_vec(),
        false => build(Arch::own(), &["--package", "cli"])?,
    };
    let found = own.into_iter().find(|path| file_name(path) == "bulkhead");
    found.context("the build made no bulkhead")
}

fn build(arch: Arch, packages: &[&str]) -> Result<Vec<PathBuf>> {
    let mut cargo = cargo()?;
    target::build_for(&mut cargo, arch)?;
    cargo
        .args(["build", "--quiet", "--release", "--bins"])
        .args(packages);
    cargo.arg("--message-format=json-render-diagnostics");
    let messages = progress::step(
        &format!("building static release binaries for {arch}"),
        || {
            let built = cargo.stderr(std::process::Stdio::inherit()).output()?;
            ensure!(built.status.success(), "the build failed");
            Ok(built.stdout)
        },
    )?;
    executables(&String::from_utf8_lossy(&messages))
}

/// The tests of a package that run its program.
pub(crate) fn process_tests(package: &str) -> Result<Vec<PathBuf>> {
    let mut cargo = cargo()?;
    target::build_for_here(&mut cargo)?;
    cargo.args([
        "test",
        "--quiet",
        "--no-run",
        "--test",
        "process",
        "--package",
    ]);
    cargo.args([package, "--message-format=json-render-diagnostics"]);
    let built = cargo.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(built.status.success(), "the build failed");
    let mut tests = executables(&String::from_utf8_lossy(&built.stdout))?;
    tests.retain(|path| file_name(path).starts_with("process-"));
    Ok(tests)
}

/// The programs that a build made, from what cargo said about it.
pub(crate) fn executables(messages: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        if let Some(path) = message["executable"].as_str() {
            paths.push(PathBuf::from(path));
        }
    }
    if paths.is_empty() {
        bail!("the build made no binary");
    }
    Ok(paths)
}
