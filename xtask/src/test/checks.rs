// SPDX-License-Identifier: Apache-2.0
//! Tests that need no VM: style, and unit tests.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::tally::{Tally, failure_of_nextest, of_doctests, of_nextest};
use super::{circles, paths, rules, unsafe_code, words};
use crate::command::loud;
use crate::tools::{DENY, NEXTEST};
use crate::{compile, fuzz, packages, progress, target};

/// How long each target is fuzzed.
const FUZZ_TIME: Duration = Duration::from_secs(4);

/// Formatting, lints, dependencies, rules; each counts as one test.
pub(crate) fn style() -> Result<Tally> {
    let mut format = compile::cargo()?;
    format.args(["fmt", "--all", "--check"]);
    let mut lints = compile::cargo()?;
    target::build_for_here(&mut lints)?;
    lints.args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    let mut dependencies = Command::new(DENY.ready()?);
    dependencies.current_dir(compile::root()?);
    // Advisories would need a database from the network.
    dependencies.args([
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    let checks = [
        ("cargo fmt --check", format),
        ("cargo clippy", lints),
        ("cargo deny check bans licenses sources", dependencies),
    ];
    let mut tally = Tally::default();
    for (name, mut check) in checks {
        let status = progress::step(name, || loud(&mut check))?;
        if status.success() {
            println!("ok       {name}");
            tally += Tally::success();
        } else {
            println!("FAILED   {name}: {status}");
            tally += Tally::failure(name);
        }
    }
    tally += obeyed("dependencies between crates", &rules::dependencies()?);
    tally += obeyed("lengths of files", &rules::lengths()?);
    tally += obeyed("imports without circles", &circles::circles()?);
    tally += obeyed("unsafe code", &unsafe_code::unlisted()?);
    tally += obeyed("paths of docs/architecture.md", &paths::paths()?);
    tally += obeyed("words that were replaced", &words::gone()?);
    Ok(tally)
}

/// A rule, and what offends against it.
fn obeyed(rule: &str, complaints: &[String]) -> Tally {
    if complaints.is_empty() {
        println!("ok       {rule}");
        return Tally::success();
    }
    println!("FAILED   {rule}");
    complaints.iter().for_each(|line| println!("    {line}"));
    Tally::failure(rule)
}

/// Every crate's own tests.
pub(crate) fn unit_tests() -> Result<Tally> {
    tests("unit tests", &["--workspace".to_owned()])
}

/// The tests of some crates.
pub(super) fn tests_of(crates: &BTreeSet<String>) -> Result<Tally> {
    let names: Vec<_> = crates.iter().map(String::as_str).collect();
    progress::say(format!("tests of {}", names.join(", ")));
    // Process tests run programs of other crates.
    let mut programs = compile::cargo()?;
    target::build_for_here(&mut programs)?;
    programs.args(["build", "--quiet", "--workspace", "--bins", "--examples"]);
    let built = progress::step("building programs", || loud(&mut programs))?;
    anyhow::ensure!(built.success(), "the build failed");
    let selected = crates
        .iter()
        .flat_map(|name| ["--package".to_owned(), name.clone()]);
    tests("unit tests", &selected.collect::<Vec<_>>())
}

fn tests(what: &str, crates: &[String]) -> Result<Tally> {
    packages::ensure(packages::UNIT_TESTS)?;
    let nextest = NEXTEST.ready()?;
    let mut units = Command::new(nextest);
    units.current_dir(compile::root()?);
    target::build_for_here(&mut units)?;
    units.args(["nextest", "run", "--no-fail-fast", "--no-tests", "pass"]);
    units.args(crates);
    units.args(["--status-level", "fail", "--cargo-quiet"]);
    let mut tally = counted(what, &mut units, of_nextest)?;
    let mut docs = compile::cargo()?;
    target::build_for_here(&mut docs)?;
    docs.args(["test", "--quiet", "--workspace", "--doc"]);
    tally += counted("documentation tests", &mut docs, of_doctests)?;
    Ok(tally)
}

/// Every fuzz target for a moment; each counts as one test.
pub(crate) fn fuzz() -> Result<Tally> {
    let mut tally = Tally::default();
    for outcome in fuzz::short(FUZZ_TIME)? {
        tally += match outcome.clean {
            true => Tally::success(),
            false => Tally::failure(format!("fuzz {}", outcome.target)),
        };
    }
    Ok(tally)
}

/// Runs a test runner and adds up the summaries in what it says.
fn counted(what: &str, command: &mut Command, summary: fn(&str) -> Option<Tally>) -> Result<Tally> {
    progress::step(what, || {
        let output = command
            .stdin(Stdio::null())
            .output()
            .with_context(|| what.to_owned())?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let mut tally = Tally::default();
        text.lines()
            .filter_map(summary)
            .for_each(|part| tally += part);
        let word = if output.status.success() {
            "ok     "
        } else {
            "FAILED "
        };
        println!(
            "{word}  {what}: {} of {}",
            tally.passed,
            tally.passed + tally.failed
        );
        if !output.status.success() {
            println!("{text}");
            let named: BTreeSet<_> = text.lines().filter_map(failure_of_nextest).collect();
            tally.failures.extend(named.into_iter().map(str::to_owned));
            // A build that failed has no test to count.
            tally.failed = tally.failed.max(1);
            if tally.failures.is_empty() {
                tally.failures.push(what.to_owned());
            }
        }
        Ok(tally)
    })
}
