// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask mutants`: changes the code that hostile input reaches, one place at a time, and runs
//! the tests next to it. A change that no test notices is a missing test.
//!
//! `assets/mutants.json` lists the modules, and the changes that may go unnoticed with the reason for
//! each. A mutant is named by its file, by what cargo-mutants says of it and, where that is not enough,
//! by its line of code: line numbers would change with every commit.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};

use crate::command::loud;
use crate::scratch::Scratch;
use crate::tools::{MUTANTS, NEXTEST};
use crate::{compile, packages, progress, signals};

mod list;
mod outcome;
mod verdict;

use list::{List, Part};
use outcome::Outcomes;

/// How long the tests may take with one mutant, in seconds. One that runs longer counts as caught: a
/// change that makes the code loop for ever is noticed.
const TEST_SECONDS: &str = "60";
/// What is not mutated: how a type is shown to a developer.
const EXCLUDED: &str = "<impl fmt::Debug for ";
/// What cargo-mutants returns when it ran to the end: nothing survived; some did; some took too long.
const RAN: [i32; 3] = [0, 2, 3];

/// Runs one module's mutants, or those of all.
pub(crate) fn run(module: Option<&str>) -> Result<ExitCode> {
    let list = List::load()?;
    let parts = list.parts(module)?;
    packages::ensure(packages::UNIT_TESTS)?;
    let tools = [MUTANTS.ready()?, NEXTEST.ready()?];
    let mut clean = true;
    for part in parts {
        let outcomes = mutate(part, &tools)?;
        let complaints = verdict::complaints(&list.accepted_in(&part.files), &outcomes);
        println!("{}: {outcomes}, {} complaints", part.name, complaints.len());
        complaints.iter().for_each(|line| println!("  {line}"));
        clean &= complaints.is_empty();
    }
    Ok(match clean {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Runs the mutants of one part of a module; logs and diffs stay in the target directory.
fn mutate(part: &Part, tools: &[PathBuf]) -> Result<Outcomes> {
    let output = compile::target_dir()?.join("mutants");
    let output = output.join(format!("{}-{}", part.name, part.package));
    fs::create_dir_all(&output).with_context(|| format!("cannot make {}", output.display()))?;
    // cargo-mutants works on a copy of the tree, which a signal must not leave behind.
    let copy = Scratch::new("mutants")?;
    let mut cargo = compile::cargo()?;
    cargo.args(["mutants", "--package", &part.package]);
    cargo.args(["--test-tool", "nextest", "--cargo-arg", "--lib"]);
    cargo.args(["--minimum-test-timeout", TEST_SECONDS]);
    cargo.args(["--exclude-re", EXCLUDED]);
    for file in &part.files {
        cargo.args(["--file", file]);
    }
    cargo.arg("--output").arg(&output);
    cargo.arg("--").args(&part.tests);
    // It builds beside the copy: a target directory that outlives one would show the next run what the
    // last mutant left.
    cargo.env_remove("CARGO_TARGET_DIR");
    cargo
        .env("TMPDIR", copy.path())
        .env("PATH", path_with(tools)?);
    // Debug information takes longer than everything else.
    cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
    let what = format!("mutants of {} in {}", part.name, part.package);
    let status = progress::step(&what, || loud(&mut cargo))?;
    signals::wait_if_stopping();
    match status.code() {
        Some(code) if RAN.contains(&code) => Outcomes::read(&output.join("mutants.out")),
        _ => bail!(
            "cargo mutants: {status}; its logs are in {}",
            output.display()
        ),
    }
}

/// `PATH`, so that cargo finds our tools.
fn path_with(tools: &[PathBuf]) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let ours = tools
        .iter()
        .filter_map(|tool| tool.parent())
        .map(Path::to_owned);
    let dirs = ours.chain(std::env::split_paths(&path));
    std::env::join_paths(dirs).context("a tool's directory has a colon in its name")
}
