// SPDX-License-Identifier: Apache-2.0
//! Runs cases one after the other, each in a process of its own with a time limit, and sees to it
//! that none leaves anything behind.

mod kernel_log;
mod one;

use std::io::Write as _;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cases::{Case, Group};
use crate::context::{Context, Places, Skip};
use crate::procs;
use one::Verdict;

/// How a line begins that is worth reading even if the case passes.
const FIGURES: &str = "SEEN ";

/// How often a runner says that it lives.
const LIFE_INTERVAL: Duration = Duration::from_secs(10);

/// The exit status by which a case's process says that it was skipped.
const SKIPPED: u8 = 77;

/// What a failed case says when software emulation may have broken its guest.
pub(crate) struct Sign {
    words: &'static str,
    /// How that came about.
    pub(crate) how: &'static str,
    /// How often such a case is begun at most.
    begun: u32,
}

/// Nothing that is tested here can make a guest crash so unless the case expects it; then it passes.
/// A guest whose place was lost may as well stand still, and so may one of a vmm with a fault: only
/// a second time tells. Whatever else goes wrong, such as wrong data or something left behind, is no
/// fault of emulation.
const SIGNS: [Sign; 6] = [
    // A kernel patches itself by way of breakpoints; another of its processors met one that was gone.
    Sign {
        words: "Oops: int3",
        how: "emulation ran a stale instruction in the guest",
        begun: 3,
    },
    // The same in a program of the guest's, on riscv64.
    Sign {
        words: "Illegal instruction",
        how: "emulation ran a stale instruction in the guest",
        begun: 3,
    },
    Sign {
        words: "the guest crashed: a triple fault",
        how: "emulation lost the guest's place",
        begun: 3,
    },
    Sign {
        words: "the time ran out waiting for ",
        how: STOOD_STILL,
        begun: 2,
    },
    Sign {
        words: "bulkhead still ran after ",
        how: STOOD_STILL,
        begun: 2,
    },
    Sign {
        words: one::HUNG,
        how: STOOD_STILL,
        begun: 2,
    },
];
const STOOD_STILL: &str = "the guest stood still, as it does when emulation loses its place";

/// Which cases to run, and how to sum up.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Only this group, if there is one.
    pub group: Option<Group>,
    /// The long ones too.
    pub soak: bool,
    /// Without those to which the interrupt controller makes no difference.
    pub brief: bool,
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
    not_applicable: usize,
}

/// Runs what `selection` selects of `cases`.
///
/// # Errors
/// When the runner itself cannot work.
pub fn run(cases: &[Case], selection: &Selection, places: &Places) -> Result<ExitCode> {
    procs::adopt_orphans().context("cannot become the parent of orphans")?;
    if selection.for_machine {
        tell_of_life();
    }
    let mut tally = Tally::default();
    for case in selection.of(cases) {
        if selection.for_machine {
            println!("E2E begins {}", case.name);
        }
        if let Some(because) = case.not_applicable(places.machine) {
            tally.not_applicable += 1;
            println!("n/a      {}: {because}", case.name);
            continue;
        }
        let (verdict, seconds, log) = settle(case, selection.emulated, places)?;
        tally.count(&verdict);
        report(case, &verdict, seconds, &log);
    }
    if selection.for_machine {
        println!("E2E sum");
    } else {
        let Tally {
            passed,
            failed,
            skipped,
            not_applicable,
        } = tally;
        println!("{not_applicable} not applicable");
        println!("{passed} passed, {failed} failed, {skipped} skipped");
    }
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Says every few seconds that this machine has not come to a halt: one that is emulated may.
fn tell_of_life() {
    thread::spawn(|| {
        loop {
            thread::sleep(LIFE_INTERVAL);
            println!("E2E alive");
        }
    });
}

/// Runs a case until its verdict stands; how long the last run took in seconds, and what it said.
fn settle(case: &Case, emulated: bool, places: &Places) -> Result<(Verdict, f32, String)> {
    let mut begun = 0;
    loop {
        let started = Instant::now();
        let (verdict, log) = one::run(case, places)?;
        let seconds = started.elapsed().as_secs_f32();
        begun += 1;
        let again = match &verdict {
            Verdict::Failed(why) if emulated => blame(why, &log),
            _ => None,
        };
        match again {
            Some(sign) if begun < sign.begun => {
                println!("again    {} ({seconds:.1} s): {}", case.name, sign.how);
                show(&log);
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
            && !(self.brief && case.is_same_with_any_interrupt_controller())
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

/// How emulation may have broken the guest of a case that failed for this reason.
pub(crate) fn blame(why: &str, log: &str) -> Option<&'static Sign> {
    let says = |sign: &&Sign| log.contains(sign.words) || why.contains(sign.words);
    SIGNS.iter().find(says)
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

    fn begun(why: &str, log: &str) -> Option<u32> {
        blame(why, log).map(|sign| sign.begun)
    }

    #[test]
    fn guest_that_crashed_as_only_emulation_makes_it_has_two_more_chances() {
        let log = "FAILED: the stream ended waiting for\nthe guest crashed: a triple fault, or\n";
        assert_eq!(begun("a step did not hold", log), Some(3));
    }

    #[test]
    fn guest_that_stood_still_has_one_more_chance() {
        let log = "FAILED: the time ran out waiting for \"login: \"; the last lines were:\n";
        assert_eq!(begun("a step did not hold", log), Some(2));
        assert_eq!(begun("hung for 300 s; killed: vmm 7 (R)", ""), Some(2));
    }

    #[test]
    fn wrong_data_and_what_is_left_behind_have_none() {
        assert_eq!(begun("a step did not hold", "FAILED: 1 mismatch\n"), None);
        assert_eq!(begun("left behind: vmm 7 (R)", ""), None);
    }
}
