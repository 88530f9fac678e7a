// SPDX-License-Identifier: Apache-2.0
//! What was done in a storm and what came of it, for whoever has to find out why it failed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How many lines are enough to see what led to a failure.
const LAST: usize = 16;

/// The book.
#[derive(Debug)]
pub(super) struct Book {
    begun: Instant,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    lines: Vec<String>,
    /// Of each kind of action and outcome.
    counts: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    longest: BTreeMap<&'static str, Duration>,
    fault: Option<String>,
    busy: usize,
    stands_still: bool,
    pauses: bool,
}

/// What came of an action, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Refused,
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Skipped => "skipped",
        }
    }
}

/// What there is one of at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Single {
    StandStill,
    Pause,
}

impl Book {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            pages: Mutex::default(),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down a line.
    pub(super) fn note(&self, line: impl fmt::Display) {
        let at = self.begun.elapsed().as_secs_f64();
        self.pages().lines.push(format!("{at:9.4} {line}"));
    }

    /// Writes down what came of an action of this kind, which began then.
    pub(super) fn count(&self, word: &'static str, outcome: Outcome, begun: Instant) {
        let mut pages = self.pages();
        *pages
            .counts
            .entry(word)
            .or_default()
            .entry(outcome.word())
            .or_default() += 1;
        let longest = pages.longest.entry(word).or_default();
        *longest = begun.elapsed().max(*longest);
    }

    /// Something that is guaranteed did not hold. The first one counts.
    pub(super) fn fail(&self, what: impl fmt::Display) {
        self.note(format_args!("FAULT {what}"));
        self.pages().fault.get_or_insert(what.to_string());
    }

    pub(super) fn is_failed(&self) -> bool {
        self.pages().fault.is_some()
    }

    pub(super) fn verdict(&self) -> Result<()> {
        match &self.pages().fault {
            Some(fault) => Err(anyhow!("{fault}")),
            None => Ok(()),
        }
    }

    /// How many actions are under way.
    pub(super) fn busy(&self) -> usize {
        self.pages().busy
    }

    /// One more is under way, if it is not more than this.
    pub(super) fn enter(&self, most: usize) -> bool {
        let mut pages = self.pages();
        let room = pages.busy < most;
        pages.busy += usize::from(room);
        room
    }

    pub(super) fn leave(&self) {
        self.pages().busy -= 1;
    }

    /// Begins what there is one of at a time. False if it is under way.
    pub(super) fn claim(&self, what: Single) -> bool {
        !std::mem::replace(self.flag(&mut self.pages(), what), true)
    }

    pub(super) fn release(&self, what: Single) {
        *self.flag(&mut self.pages(), what) = false;
    }

    /// Whether it is under way.
    pub(super) fn is(&self, what: Single) -> bool {
        *self.flag(&mut self.pages(), what)
    }

    #[allow(clippy::unused_self)]
    fn flag<'a>(&self, pages: &'a mut Pages, what: Single) -> &'a mut bool {
        match what {
            Single::StandStill => &mut pages.stands_still,
            Single::Pause => &mut pages.pauses,
        }
    }

    pub(super) fn last(&self) -> String {
        let pages = self.pages();
        let skip = pages.lines.len().saturating_sub(LAST);
        pages.lines[skip..].join("\n")
    }

    pub(super) fn print_all(&self) {
        for line in &self.pages().lines {
            println!("{line}");
        }
    }

    /// How often each action was done, and how long the longest took.
    pub(super) fn print_counts(&self) {
        let pages = self.pages();
        for (word, outcomes) in &pages.counts {
            let outcomes: Vec<_> = outcomes.iter().map(|(o, n)| format!("{o}={n}")).collect();
            let longest = pages.longest.get(word).copied().unwrap_or_default();
            println!(
                "SEEN storm action={word} {} longest_ms={}",
                outcomes.join(" "),
                longest.as_millis()
            );
        }
    }
}
