// SPDX-License-Identifier: Apache-2.0
//! End-to-end cases, here or in the lab.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use e2e::machine::Machine;

use super::tally::{Tally, of_case};
use super::times::Times;
use crate::arch::Arch;
use crate::guests::{self, Kernels};
use crate::lab::InnerHost;
use crate::{TestFlags, compile, lab, packages, previous, progress, signals};

/// For one boot of the inner host with all cases in it; each case has a limit of its own.
const LIMIT: Duration = Duration::from_secs(45 * 60);
const SOAK_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// An inner host that stands still says nothing; the runner in it says every few seconds that it lives.
const SILENCE: Duration = Duration::from_secs(240);
/// How often an inner host that died is booted again for what it had not run.
const BOOTS: u32 = 6;
/// How often a case may be running when an inner host dies. Emulated with its guests in it, an inner host
/// is lost now and then (a stack overwritten, a triple fault), and under the heaviest cases twice in a row.
const CHANCES: u32 = 3;

/// What our own runner has said so far.
#[derive(Debug, Default)]
struct Progress {
    tally: Tally,
    /// The case that began and has no verdict yet.
    running: Option<String>,
    /// Whether the runner came to its end.
    complete: bool,
}

impl Progress {
    fn hear(&mut self, line: &str) {
        if let Some(case) = line.strip_prefix("E2E begins ") {
            self.running = Some(case.trim().to_owned());
        } else if line == "E2E sum" {
            self.complete = true;
        } else if let Some(verdict) = of_case(line) {
            self.tally += verdict;
            self.running = None;
        }
    }
}

/// What the runner says every few seconds.
const ALIVE: &str = "E2E alive";

/// Lines that are between the runner and us.
fn is_internal(line: &str) -> bool {
    line.starts_with("E2E ")
}

/// Which cases are run of those that the flags select.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// All of them.
    All,
    /// Those that need no stock guest.
    Native,
    /// Those with a stock guest.
    Guest,
    /// Those to which the interrupt controller can make a difference.
    Brief,
}

impl Extent {
    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Native => "native",
            Self::Guest => "guest",
            Self::Brief => "some",
        }
    }

    /// What the runner is told.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::All => &[],
            Self::Native => &["--group", "native"],
            Self::Guest => &["--group", "guest"],
            Self::Brief => &["--brief"],
        }
    }
}

fn arguments(flags: &TestFlags, machine: Machine, extent: Extent) -> Vec<String> {
    let mut args = vec!["test".to_owned(), "--for-machine".to_owned()];
    args.extend(["--machine".to_owned(), machine.name().to_owned()]);
    args.extend(extent.arguments().iter().map(|&word| word.to_owned()));
    if flags.soak {
        args.push("--soak".to_owned());
    }
    if let Some(seed) = flags.seed {
        args.extend(["--seed".to_owned(), seed.to_string()]);
    }
    args.extend(flags.filter.clone());
    args
}

/// Cases on this machine.
pub(super) fn natively(
    flags: &TestFlags,
    binaries: &[PathBuf],
    extent: Extent,
    times: &mut Times,
) -> Result<Tally> {
    progress::say(format!("{} cases on this machine", extent.word()));
    packages::ensure(packages::qemu(Arch::own()))?;
    let runner = compile::runner(binaries)?;
    let machine = Machine::own();
    let mut command = Command::new(runner);
    command.args(arguments(flags, machine, extent));
    if extent != Extent::Native {
        command
            .arg("--assets")
            .arg(guests::ready(&Kernels::ready(Arch::own())?)?);
    }
    if let Some(revision) = &flags.previous {
        command.arg("--previous").arg(previous::ready(revision)?);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("the runner has no output")?;
    let mut progress = Progress::default();
    // What a case said stays together, whatever is said by the lab beside it.
    let mut said = String::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        progress.hear(&line);
        times.hear(machine, &line);
        if line == ALIVE {
            continue;
        }
        if is_internal(&line) {
            print!("{}", std::mem::take(&mut said));
        } else {
            said += &line;
            said.push('\n');
        }
    }
    print!("{said}");
    let status = child.wait()?;
    signals::wait_if_stopping();
    if !progress.complete {
        println!("FAILED   the runner ended with {status}");
        progress.tally += Tally::failure("the runner here");
    }
    Ok(progress.tally)
}

/// Cases in the lab. When the inner host itself dies, the case it was running gets another chance in a
/// fresh one, at most [`CHANCES`] in all, and those behind it are run there.
pub(super) fn in_the_lab(
    host: &'static InnerHost,
    flags: &TestFlags,
    binaries: &[PathBuf],
    extent: Extent,
    times: &mut Times,
) -> Result<Tally> {
    let name = host.runs.name();
    progress::say(format!("{} cases in the lab, on {name}", extent.word()));
    let limit = if flags.soak { SOAK_LIMIT } else { LIMIT };
    let mut command = vec![compile::RUNNER.to_owned()];
    command.extend(arguments(flags, host.runs, extent));
    command.push("--emulated".to_owned());
    command.extend(["--assets".to_owned(), lab::GUESTS.to_owned()]);
    let mut job = lab::Job {
        host,
        command: command.clone(),
        binaries: binaries.to_vec(),
        limit,
        silence: Some(SILENCE),
    };
    let mut tally = Tally::default();
    let mut blamed = (String::new(), 0);
    for _ in 0..BOOTS {
        let finished = lab::run(&job, |line| !is_internal(line))?;
        signals::wait_if_stopping();
        let mut progress = Progress::default();
        finished.stdout.lines().for_each(|line| progress.hear(line));
        let lines = finished.stdout.lines();
        lines.for_each(|line| times.hear(host.runs, line));
        tally += progress.tally;
        if progress.complete {
            return Ok(tally);
        }
        match finished.status {
            Ok(status) => println!("the runner ended early with status {status}"),
            Err(error) => println!("{error:#}"),
        }
        let Some(case) = progress.running else { break };
        if blamed.0 != case {
            blamed = (case.clone(), 0);
        }
        blamed.1 += 1;
        if blamed.1 == CHANCES {
            break;
        }
        println!("once more from {case}, which the inner host was running");
        job.command = [command.as_slice(), &["--from".to_owned(), case]].concat();
    }
    println!("FAILED   the lab did not come to the end of the cases");
    tally += Tally::failure(format!("the runner in the lab, on {name}"));
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_without_a_verdict_is_the_one_running() {
        let mut progress = Progress::default();
        [
            "E2E begins a",
            "ok       a (1.0 s)",
            "E2E begins b",
            "    ok, it said",
        ]
        .iter()
        .for_each(|line| progress.hear(line));

        assert_eq!(progress.tally, Tally::success());
        assert_eq!(progress.running.as_deref(), Some("b"));
        assert!(!progress.complete);
    }
}
