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

/// What a failed case says when software emulation has broken its guest, and how that came about.
/// Nothing that is tested here can make a guest end so unless the case expects it; then it passes.
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
        let mut chances = if selection.emulated { CHANCES } else { 1 };
        loop {
            let started = Instant::now();
            let (verdict, log) = one::run(case, places)?;
            let seconds = started.elapsed().as_secs_f32();
            chances -= 1;
            if let (Verdict::Failed(_), Some(how), 1..) = (&verdict, blame(&log), chances) {
                println!("again    {} ({seconds:.1} s): {how}", case.name);
                continue;
            }
            tally.count(&verdict);
            report(case, &verdict, seconds, &log);
            break;
        }
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
            for line in log.lines() {
                println!("    {}", line.trim_end());
            }
        }
    }
    // Nobody reading is no reason to stop.
    let _ = std::io::stdout().flush();
}
