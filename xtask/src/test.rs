// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: style, unit tests, process tests, end-to-end tests, one closing line.

use std::io::{BufRead as _, BufReader};
use std::ops::AddAssign;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::command::loud;
use crate::guests::{self, Kernels};
use crate::host::{self, Place};
use crate::tools::{DENY, NEXTEST};
use crate::{TestFlags, compile, lab, progress};

/// For one boot of the inner host with all cases in it; each case has a limit of its own.
const LIMIT: Duration = Duration::from_secs(45 * 60);
const SOAK_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Runs everything, or only the end-to-end cases that the filter selects.
pub(crate) fn run(flags: &TestFlags) -> Result<ExitCode> {
    let mut tally = Tally::default();
    if flags.filter.is_none() {
        tally += style()?;
        tally += unit_tests()?;
    }
    let place = host::choose(flags.place);
    let binaries = compile::all()?;
    match place {
        Place::Lab => {
            tally += natively(flags, &binaries, Some("native"))?;
            tally += in_the_lab(flags, binaries)?;
        }
        Place::Native => tally += natively(flags, &binaries, None)?,
    }
    let Tally {
        passed,
        failed,
        skipped,
    } = tally;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Each check counts as one test.
fn style() -> Result<Tally> {
    let mut tally = Tally::default();
    let deny = DENY.ready()?;
    let cargo = |args: &[&str]| {
        compile::cargo().map(|mut cargo| {
            cargo.args(args);
            cargo
        })
    };
    let mut check_deny = Command::new(deny);
    check_deny.current_dir(compile::root()?);
    // Advisories would need a database from the network.
    check_deny.args([
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    let clippy = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    let checks = [
        ("cargo fmt --check", cargo(&["fmt", "--all", "--check"])?),
        ("cargo clippy", cargo(&clippy)?),
        ("cargo deny check bans licenses sources", check_deny),
    ];
    for (name, mut check) in checks {
        let status = progress::step(name, || loud(&mut check))?;
        if status.success() {
            println!("ok       {name}");
            tally.passed += 1;
        } else {
            println!("FAILED   {name}: {status}");
            tally.failed += 1;
        }
    }
    Ok(tally)
}

fn unit_tests() -> Result<Tally> {
    let nextest = NEXTEST.ready()?;
    let mut units = Command::new(nextest);
    units.current_dir(compile::root()?);
    units.args([
        "nextest",
        "run",
        "--workspace",
        "--no-fail-fast",
        "--no-tests",
        "pass",
    ]);
    units.args(["--status-level", "fail", "--cargo-quiet"]);
    let mut tally = counted("unit tests", &mut units, nextest_summary)?;
    let mut docs = compile::cargo()?;
    docs.args(["test", "--quiet", "--workspace", "--doc"]);
    tally += counted("documentation tests", &mut docs, doctest_summary)?;
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
        println!("{}: {} passed, {} failed", what, tally.passed, tally.failed);
        if !output.status.success() {
            println!("{text}");
            // A build that failed has no test to count.
            tally.failed = tally.failed.max(1);
        }
        Ok(tally)
    })
}

/// `Summary [ 0.1s] 12 tests run: 11 passed (1 slow), 1 failed, 2 skipped`
fn nextest_summary(line: &str) -> Option<Tally> {
    let (_, counts) = line
        .split_once(" tests run: ")
        .or_else(|| line.split_once(" test run: "))?;
    let failures = ["failed", "timed out", "exec failed"];
    Some(Tally {
        passed: count(counts, "passed"),
        failed: failures.iter().map(|word| count(counts, word)).sum(),
        skipped: count(counts, "skipped"),
    })
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out`
fn doctest_summary(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    Some(Tally {
        passed: count(counts, "passed"),
        failed: count(counts, "failed"),
        skipped: count(counts, "ignored"),
    })
}

/// `E2E passed failed skipped`
fn runner_summary(line: &str) -> Option<Tally> {
    let mut numbers = line
        .strip_prefix("E2E ")?
        .split_whitespace()
        .map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Tally {
        passed: next()?,
        failed: next()?,
        skipped: next()?,
    })
}

/// The number in front of `word` in a list of counts.
fn count(counts: &str, word: &str) -> u32 {
    counts
        .split([',', ';'])
        .filter_map(|part| part.trim().split_once(' '))
        .find(|(_, rest)| rest.split('(').next().unwrap_or(rest).trim() == word)
        .and_then(|(number, _)| number.parse().ok())
        .unwrap_or(0)
}

fn runner_arguments(flags: &TestFlags, group: Option<&str>) -> Vec<String> {
    let mut args = vec!["test".to_owned(), "--for-machine".to_owned()];
    if let Some(group) = group {
        args.extend(["--group".to_owned(), group.to_owned()]);
    }
    if flags.soak {
        args.push("--soak".to_owned());
    }
    args.extend(flags.filter.clone());
    args
}

fn natively(flags: &TestFlags, binaries: &[PathBuf], group: Option<&str>) -> Result<Tally> {
    progress::say(format!("{} cases on this machine", group.unwrap_or("all")));
    let runner = compile::runner(binaries)?;
    let mut command = Command::new(runner);
    command.args(runner_arguments(flags, group));
    if group != Some("native") {
        command
            .arg("--assets")
            .arg(guests::ready(&Kernels::ready()?)?);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("the runner has no output")?;
    let mut tally = None;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        match runner_summary(&line) {
            Some(found) => tally = Some(found),
            None => println!("{line}"),
        }
    }
    let status = child.wait()?;
    tally.with_context(|| format!("the runner ended with {status}"))
}

fn in_the_lab(flags: &TestFlags, binaries: Vec<PathBuf>) -> Result<Tally> {
    progress::say("guest cases in the lab");
    let mut command = vec![compile::RUNNER.to_owned()];
    command.extend(runner_arguments(flags, Some("guest")));
    command.extend(["--assets".to_owned(), lab::GUESTS.to_owned()]);
    let limit = if flags.soak { SOAK_LIMIT } else { LIMIT };
    let show = |line: &str| runner_summary(line).is_none();
    let finished = match lab::run(
        &lab::Job {
            command,
            binaries,
            limit,
        },
        show,
    ) {
        Ok(finished) => finished,
        Err(error) => {
            // The other groups' results are still worth a closing line.
            println!("FAILED   the lab: {error:#}");
            return Ok(Tally {
                failed: 1,
                ..Tally::default()
            });
        }
    };
    let text = String::from_utf8_lossy(&finished.stdout);
    let tally = text.lines().find_map(runner_summary);
    ensure!(
        tally.is_some(),
        "the runner ended with status {}",
        finished.status
    );
    Ok(tally.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_nextest_with_remarks_is_counted() {
        let line = "  Summary [  1.2s] 12 tests run: 9 passed (2 slow), 3 failed, 4 skipped";

        let tally = Tally {
            passed: 9,
            failed: 3,
            skipped: 4,
        };
        assert_eq!(nextest_summary(line), Some(tally));
    }

    #[test]
    fn summary_of_doctests_is_counted() {
        let line = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";

        let tally = Tally {
            passed: 3,
            failed: 0,
            skipped: 1,
        };
        assert_eq!(doctest_summary(line), Some(tally));
    }

    #[test]
    fn line_that_is_no_summary_counts_nothing() {
        assert_eq!(nextest_summary("12 passed"), None);
        assert_eq!(runner_summary("ok  E2E"), None);
    }
}
