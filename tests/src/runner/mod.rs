// SPDX-License-Identifier: Apache-2.0
//! Runs cases one after the other, each in a process of its own with a time limit, and sees to it
//! that none leaves anything behind.

mod one;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::cases::{Case, Group};
use crate::context::{Context, Places, Skip};
use crate::procs;
use one::Verdict;

/// How a line begins that is worth reading even if the case passes.
const FIGURES: &str = "SEEN ";

/// The exit status by which a case's process says that it was skipped.
const SKIPPED: u8 = 77;

/// What a failed case says when software emulation has certainly broken its guest, and how that came
/// about. Nothing that is tested here can make a guest end so unless the case expects it; then it
/// passes.
const EMULATION: [(&str, &str); 2] = [
    // A kernel patches itself by way of breakpoints; another of its processors met one that was gone.
    (
        "Oops: int3",
        "emulation ran a stale instruction in the guest",
    ),
    // A fault of the nested page tables met the delivery of an interrupt.
    (
        "the guest crashed: a triple fault",
        "emulation lost the guest's place",
    ),
];
/// How often a case is begun at most for such a reason.
const CHANCES: u32 = 3;
/// How often it is begun when it failed in emulation for another. A guest whose place was lost need
/// not crash: it may as well stand still, and then only a second failure says that it is not that.
const UNEXPLAINED_CHANCES: u32 = 2;

/// Which cases to run, and how to sum up.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Only this group, if there is one.
    pub group: Option<Group>,
    /// The long ones too.
    pub soak: bool,
    /// Those too that need another version.
    pub previous: bool,
    /// Only those whose name contains this.
    pub filter: Option<String>,
    /// Only this one and those behind it.
    pub from: Option<String>,
    /// Say what begins, and sum up, for a program that sums up further.
    pub for_machine: bool,
    /// The processor is emulated in software.
    pub emulated: bool,
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

/// Runs what `selection` selects of `cases`.
///
/// # Errors
/// When the runner itself cannot work.
pub fn run(cases: &[Case], selection: &Selection, places: &Places) -> Result<ExitCode> {
    procs::adopt_orphans().context("cannot become the parent of orphans")?;
    let mut tally = Tally::default();
    for case in selection.of(cases) {
        if selection.for_machine {
            println!("E2E begins {}", case.name);
        }
        let (verdict, seconds, log) = settle(case, selection.emulated, places)?;
        tally.count(&verdict);
        report(case, &verdict, seconds, &log);
    }
    if selection.for_machine {
        println!(
            "E2E sum {} {} {}",
            tally.passed, tally.failed, tally.skipped
        );
    } else {
        let Tally {
            passed,
            failed,
            skipped,
        } = tally;
        println!("{passed} passed, {failed} failed, {skipped} skipped");
    }
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs a case until its verdict stands; how long the last run took in seconds, and what it said.
fn settle(case: &Case, emulated: bool, places: &Places) -> Result<(Verdict, f32, String)> {
    let mut begun = 0;
    loop {
        let started = Instant::now();
        let (verdict, log) = one::run(case, places)?;
        let seconds = started.elapsed().as_secs_f32();
        begun += 1;
        match &verdict {
            Verdict::Failed(why) if emulated && begun < chances(&log) => {
                let how = blame(&log);
                let reason = how.unwrap_or(why);
                println!("again    {} ({seconds:.1} s): {reason}", case.name);
                if how.is_none() {
                    show(&log);
                }
            }
            _ => return Ok((verdict, seconds, log)),
        }
    }
}

/// Runs one case in this process, whose exit status tells how it went.
#[must_use]
pub fn run_here(case: &Case, places: &Places) -> ExitCode {
    let outcome = Context::new(places.clone()).and_then(|context| (case.run)(&context));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(reason) => {
                println!("{reason}");
                ExitCode::from(SKIPPED)
            }
            None => {
                println!("FAILED: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

impl Selection {
    /// The cases to run.
    pub fn of<'a>(&'a self, cases: &'a [Case]) -> impl Iterator<Item = &'a Case> {
        cases
            .iter()
            .filter(|case| self.selects(case))
            .skip_while(|case| self.from.as_ref().is_some_and(|from| *from != case.name))
    }

    fn selects(&self, case: &Case) -> bool {
        self.group.is_none_or(|group| group == case.group)
            && (self.soak || !case.soak)
            && (self.previous || !case.previous)
            && self
                .filter
                .as_ref()
                .is_none_or(|part| case.name.contains(part.as_str()))
    }
}

impl Tally {
    fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Failed(_) => self.failed += 1,
            Verdict::Skipped => self.skipped += 1,
        }
    }
}

/// How emulation broke the guest of a case that failed, if it did.
fn blame(log: &str) -> Option<&'static str> {
    let signs = EMULATION.iter();
    let mut seen = signs.filter(|(sign, _)| log.contains(sign));
    seen.next().map(|(_, how)| *how)
}

/// How often a case that failed in emulation is begun in all.
fn chances(log: &str) -> u32 {
    match blame(log) {
        Some(_) => CHANCES,
        None => UNEXPLAINED_CHANCES,
    }
}

fn show(log: &str) {
    for line in log.lines() {
        println!("    {}", line.trim_end());
    }
}

fn report(case: &Case, verdict: &Verdict, seconds: f32, log: &str) {
    match verdict {
        Verdict::Passed => {
            println!("ok       {} ({seconds:.1} s)", case.name);
            let figures = log.lines().filter(|line| line.starts_with(FIGURES));
            figures.for_each(|line| println!("         {line}"));
        }
        Verdict::Skipped => println!("skipped  {}: {}", case.name, log.trim()),
        Verdict::Failed(why) => {
            println!("FAILED   {} ({seconds:.1} s): {why}", case.name);
            show(log);
        }
    }
    // Nobody reading is no reason to stop.
    let _ = std::io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_that_emulation_broke_has_more_chances_than_one_that_failed_otherwise() {
        let broken = "console\njailer: the guest crashed: a triple fault, or a state\n";

        assert_eq!(chances(broken), 3);
        assert_eq!(chances("the time ran out waiting for \"login: \""), 2);
    }
}
