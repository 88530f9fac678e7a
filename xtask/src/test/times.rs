// SPDX-License-Identifier: Apache-2.0
//! Where the time of a run went: what is said at its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::machine::Machine;

use super::table::Table;

/// So many of the slowest cases are named.
const SLOWEST: usize = 10;

/// A case that has a verdict.
#[derive(Debug, Clone, PartialEq)]
struct Case {
    name: String,
    seconds: f64,
}

/// What a run has taken so far.
#[derive(Debug, Default)]
pub(super) struct Times {
    parts: Vec<(&'static str, Duration)>,
    cases: Vec<Case>,
    /// What a case tells of itself.
    told: Vec<String>,
    /// How each case went on each machine.
    pub(super) table: Table,
}

impl Times {
    /// Does a part of the run, and notes how long it took.
    pub(super) fn of<T>(&mut self, part: &'static str, work: impl FnOnce(&mut Self) -> T) -> T {
        let begun = Instant::now();
        let done = work(self);
        self.parts.push((part, begun.elapsed()));
        done
    }

    /// Adds what was noted elsewhere at the same time.
    pub(super) fn add(&mut self, other: Self) {
        self.parts.extend(other.parts);
        self.cases.extend(other.cases);
        self.told.extend(other.told);
        self.table.add(other.table);
    }

    /// Hears a line of the runner's on a machine: `ok       NAME (1.5 s)`.
    pub(super) fn hear(&mut self, machine: Machine, line: &str) {
        self.cases.extend(case_of(line));
        self.table.hear(machine, line);
    }

    /// Keeps lines of a case for the end.
    pub(super) fn tell(&mut self, case: &str, lines: Vec<String>) {
        let lines = lines.into_iter();
        self.told
            .extend(lines.map(|line| format!("{case:8} {line}")));
    }

    /// The closing lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let parts = self.parts.iter();
        let parts: Vec<_> = parts
            .map(|(part, took)| format!("{part} {} s", took.as_secs()))
            .collect();
        lines.push(format!("time: {}", parts.join(", ")));
        let mut groups = BTreeMap::<&str, (f64, u32)>::new();
        for case in &self.cases {
            let group = case.name.split('_').next().unwrap_or_default();
            let (seconds, count) = groups.entry(group).or_default();
            *seconds += case.seconds;
            *count += 1;
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by(|(_, (a, _)), (_, (b, _))| b.total_cmp(a));
        let groups: Vec<_> = groups
            .iter()
            .map(|(group, (seconds, count))| format!("{group} {count}: {seconds:.0} s"))
            .collect();
        if !groups.is_empty() {
            lines.push(format!("cases by group: {}", groups.join(", ")));
        }
        let mut slowest = self.cases.clone();
        slowest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        for Case { name, seconds, .. } in slowest.iter().take(SLOWEST) {
            lines.push(format!("slow     {name} ({seconds:.1} s)"));
        }
        lines.extend(self.told.iter().cloned());
        lines
    }
}

fn case_of(line: &str) -> Option<Case> {
    let (verdict, rest) = line.split_once(' ')?;
    if !matches!(verdict, "ok" | "FAILED") {
        return None;
    }
    let (name, rest) = rest.trim_start().split_once(" (")?;
    let (seconds, _) = rest.split_once(" s)")?;
    Some(Case {
        name: name.to_owned(),
        seconds: seconds.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_have_parts_groups_and_the_slowest() {
        let mut times = Times::default();
        times.of("cases", |times| {
            for line in [
                "ok       boot_a (1.5 s)",
                "FAILED   boot_b (2.0 s): a step did not hold",
                "    ok       boot_c (9.0 s)",
                "ok       cargo clippy",
                "ok       net_a (0.1 s)",
            ] {
                times.hear(Machine::X86, line);
            }
        });
        let lines = times.lines();
        assert_eq!(lines[0], "time: cases 0 s");
        assert_eq!(lines[1], "cases by group: boot 2: 4 s, net 1: 0 s");
        assert_eq!(lines[2], "slow     boot_b (2.0 s)");
        assert_eq!(lines.len(), 5);
    }
}
