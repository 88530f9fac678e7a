// SPDX-License-Identifier: Apache-2.0
//! The table of cases and machines in docs/architectures.md, and what guests see of their interrupt
//! controllers: a run of all cases writes the columns of the machines that it ran on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use e2e::cases;
use e2e::machine::Machine;

use crate::compile;

const FILE: &str = "docs/architectures.md";
/// What is between these lines is written by a run.
const BEGIN: &str = "<!-- written by cargo xtask test -->";
const END: &str = "<!-- end of what is written -->";
/// In front of the rows, and of a line of /proc/interrupts.
const CASE: &str = "| `";
const SEEN: &str = "SEEN interrupt ";
/// The cell of a case without a verdict.
const NONE: &str = "";

/// How a case went on a machine: `passed`, `failed`, or `skipped` or `n/a` with the reason.
type Verdict = (String, Option<String>);

/// The table.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Table {
    verdicts: BTreeMap<String, BTreeMap<Machine, Verdict>>,
    interrupts: BTreeSet<(Machine, String)>,
}

impl Table {
    /// Hears a line of the runner's: a verdict, or a line of /proc/interrupts.
    pub(super) fn hear(&mut self, machine: Machine, line: &str) {
        if let Some((name, verdict)) = verdict(line) {
            let row = self.verdicts.entry(name).or_default();
            row.insert(machine, verdict);
        } else if let Some(seen) = line.trim_start().strip_prefix(SEEN) {
            self.interrupts.insert((machine, seen.trim().to_owned()));
        }
    }

    /// Adds what was heard elsewhere.
    pub(super) fn add(&mut self, other: Self) {
        for (case, verdicts) in other.verdicts {
            self.verdicts.entry(case).or_default().extend(verdicts);
        }
        self.interrupts.extend(other.interrupts);
    }

    /// Writes what was heard into the document. The verdicts of other machines stay, and of cases that
    /// there still are.
    pub(super) fn write(self) -> Result<()> {
        let path = compile::root()?.join(FILE);
        let text = fs::read_to_string(&path).context(FILE)?;
        let (before, written, after) = parts(&text).context("docs/architectures.md: no marks")?;
        let mut table = Self::of(written);
        let heard: BTreeSet<_> = self
            .interrupts
            .iter()
            .map(|(machine, _)| *machine)
            .collect();
        table
            .interrupts
            .retain(|(machine, _)| !heard.contains(machine));
        table.add(self);
        let names: BTreeSet<_> = cases::all().into_iter().map(|case| case.name).collect();
        table.verdicts.retain(|case, _| names.contains(case));
        fs::write(&path, format!("{before}{}{after}", table.text())).context(FILE)
    }

    /// What was written before.
    fn of(text: &str) -> Self {
        let mut table = Self::default();
        let reasons: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(". "))
            .collect();
        for line in text.lines() {
            let Some(row) = line.strip_prefix(CASE) else {
                continue;
            };
            let mut cells = row.trim_end_matches('|').split('|').map(str::trim);
            let name = cells.next().unwrap_or_default().trim_end_matches('`');
            if let Some(machine) = Machine::ALL.iter().find(|machine| machine.name() == name) {
                let seen = cells.next().unwrap_or_default().trim_matches('`');
                table.interrupts.insert((*machine, seen.to_owned()));
                continue;
            }
            let verdicts = Machine::ALL.into_iter().zip(cells);
            let verdicts = verdicts.filter(|(_, cell)| *cell != NONE);
            let verdicts = verdicts.map(|(machine, cell)| {
                let verdict = match cell.split_once(' ') {
                    Some((verdict, number)) => (verdict, reasons.get(number)),
                    None => (cell, None),
                };
                (
                    machine,
                    (
                        verdict.0.to_owned(),
                        verdict.1.map(|reason| (*reason).to_owned()),
                    ),
                )
            });
            table.verdicts.insert(name.to_owned(), verdicts.collect());
        }
        table
    }

    fn text(&self) -> String {
        let verdicts = || self.verdicts.values().flat_map(BTreeMap::values);
        let reasons: BTreeSet<_> = verdicts()
            .filter_map(|(_, reason)| reason.as_ref())
            .collect();
        let reasons: Vec<_> = reasons.into_iter().collect();
        let number = |reason: &String| reasons.iter().position(|other| *other == reason);
        let mut lines = vec![String::new()];
        let names = Machine::ALL.map(Machine::name);
        lines.push(format!("| case | {} |", names.join(" | ")));
        lines.push(format!("|---|{}", "---|".repeat(names.len())));
        for (case, verdicts) in &self.verdicts {
            let mut row = format!("{CASE}{case}` |");
            for machine in Machine::ALL {
                let cell = match verdicts.get(&machine) {
                    None => NONE.to_owned(),
                    Some((verdict, None)) => verdict.clone(),
                    Some((verdict, Some(reason))) => {
                        format!("{verdict} {}", number(reason).map_or(0, |at| at + 1))
                    }
                };
                // Writing to a String does not fail.
                let _ = write!(row, " {cell} |");
            }
            lines.push(row);
        }
        lines.push("\nn/a: not applicable. The numbers are those of the reasons:\n".to_owned());
        let numbered = (1..).zip(&reasons);
        lines.extend(numbered.map(|(number, reason)| format!("{number}. {reason}")));
        lines.push(
            "\nWhat guests had in `/proc/interrupts`, without numbers and counts:\n".to_owned(),
        );
        lines.push("| machine | interrupt |\n|---|---|".to_owned());
        let seen = self.interrupts.iter();
        lines.extend(seen.map(|(machine, line)| format!("{CASE}{}` | `{line}` |", machine.name())));
        lines.push(String::new());
        lines.push(String::new());
        lines.join("\n")
    }
}

/// What is before, between and behind the marks, which stay with the outer parts.
fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let begin = text.find(BEGIN)? + BEGIN.len();
    let end = begin + text.get(begin..)?.find(END)?;
    Some((text.get(..begin)?, text.get(begin..end)?, text.get(end..)?))
}

/// The name and verdict in a line of the runner's.
fn verdict(line: &str) -> Option<(String, Verdict)> {
    let (word, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    let timed = |verdict: &str| Some((rest.split_once(" (")?.0, (verdict.to_owned(), None)));
    let told = || {
        let (name, reason) = rest.split_once(": ")?;
        Some((name, (word.to_owned(), Some(reason.replace('|', "/")))))
    };
    let (name, verdict) = match word {
        "ok" => timed("passed"),
        "FAILED" => timed("failed"),
        "skipped" | "n/a" => told(),
        _ => None,
    }?;
    Some((name.to_owned(), verdict))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(machine: Machine, lines: &[&str]) -> Table {
        let mut table = Table::default();
        lines.iter().for_each(|line| table.hear(machine, line));
        table
    }

    #[test]
    fn written_table_is_read_as_it_was() {
        let mut table = heard(
            Machine::Gicv3,
            &[
                "ok       boot_a (1.5 s)",
                "         SEEN interrupt ITS-MSI 1 Edge virtio0-config",
                "FAILED   boot_b (2.0 s): a step did not hold",
                "    ok       boot_c (9.0 s)",
                "n/a      keyboard: it has none",
            ],
        );
        table.add(heard(
            Machine::Plic,
            &["skipped  boot_b: only root can do this"],
        ));
        let text = table.text();
        assert!(
            text.contains("| `boot_a` |  | passed |  |  |  |\n"),
            "{text}"
        );
        assert!(
            text.contains("| `boot_b` |  | failed |  |  | skipped 2 |\n"),
            "{text}"
        );
        assert!(
            text.contains("| `keyboard` |  | n/a 1 |  |  |  |\n"),
            "{text}"
        );
        assert!(
            text.contains("| `gicv3` | `ITS-MSI 1 Edge virtio0-config` |\n"),
            "{text}"
        );
        assert_eq!(Table::of(&text), table);
    }

    #[test]
    fn document_has_marks() {
        let path = compile::root().unwrap().join(FILE);
        assert!(parts(&fs::read_to_string(path).unwrap()).is_some());
    }
}
