// SPDX-License-Identifier: Apache-2.0
//! What became of each mutant: `outcomes.json` of cargo-mutants, of which this reads what it needs.

use std::fmt;
use std::path::Path;

use serde::Deserialize;

use super::{Context, Result, compile, fs};

/// What became of the mutants of one run.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    pub(super) caught: usize,
    pub(super) timed_out: usize,
    pub(super) did_not_build: usize,
    pub(super) survivors: Vec<Survivor>,
}

/// A mutant that no test noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Survivor {
    pub(super) file: String,
    pub(super) line: usize,
    /// What cargo-mutants says of it, without the file's name and the place in it.
    pub(super) mutation: String,
    /// The line of code that it changes.
    pub(super) code: String,
}

#[derive(Deserialize)]
struct Report {
    outcomes: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    scenario: Scenario,
    summary: String,
}

#[derive(Deserialize)]
enum Scenario {
    Baseline,
    Mutant(Mutant),
}

#[derive(Deserialize)]
struct Mutant {
    name: String,
    file: String,
    span: Span,
}

#[derive(Deserialize)]
struct Span {
    start: Start,
}

#[derive(Deserialize)]
struct Start {
    line: usize,
}

impl Outcomes {
    /// Those in a directory of cargo-mutants.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("outcomes.json");
        let shown = path.display();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {shown}"))?;
        let root = compile::root()?;
        let source = |file: &str| Ok(fs::read_to_string(root.join(file))?);
        Self::parse(&text, source).with_context(|| format!("{shown} is not as expected"))
    }

    fn parse(text: &str, source: impl Fn(&str) -> Result<String>) -> Result<Self> {
        let report: Report = serde_json::from_str(text)?;
        let mut outcomes = Self::default();
        for Entry { scenario, summary } in report.outcomes {
            let Scenario::Mutant(mutant) = scenario else {
                continue;
            };
            match summary.as_str() {
                "CaughtMutant" => outcomes.caught += 1,
                "Timeout" => outcomes.timed_out += 1,
                "Unviable" => outcomes.did_not_build += 1,
                "MissedMutant" => outcomes.survivors.push(survivor(mutant, &source)?),
                other => super::bail!("{}: unknown outcome {other:?}", mutant.name),
            }
        }
        Ok(outcomes)
    }
}

fn survivor(mutant: Mutant, source: impl Fn(&str) -> Result<String>) -> Result<Survivor> {
    let Mutant { name, file, span } = mutant;
    let line = span.start.line;
    // "FILE:LINE:COLUMN: MUTATION"
    let (_, mutation) = name
        .split_once(": ")
        .context("a mutant's name has no place")?;
    let text = source(&file)?;
    let code = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    Ok(Survivor {
        line,
        mutation: mutation.to_owned(),
        code: code.trim().to_owned(),
        file,
    })
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} caught, {} took too long, {} did not build, {} survived",
            self.caught,
            self.timed_out,
            self.did_not_build,
            self.survivors.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_of_cargo_mutants_are_counted_and_survivors_named() {
        let mutant = |summary: &str| {
            format!(
                r#"{{"scenario": {{"Mutant": {{"name": "a/src/b.rs:2:9: replace + with - in f", "file": "a/src/b.rs",
                "span": {{"start": {{"line": 2, "column": 9}}}}, "package": "a"}}}}, "summary": "{summary}"}}"#
            )
        };
        let baseline = r#"{"scenario": "Baseline", "summary": "Success"}"#.to_owned();
        let entries = [
            "CaughtMutant",
            "CaughtMutant",
            "Timeout",
            "Unviable",
            "MissedMutant",
        ]
        .map(mutant);
        let text = format!(r#"{{"outcomes": [{baseline}, {}]}}"#, entries.join(","));
        let outcomes =
            Outcomes::parse(&text, |_| Ok("fn f() {\n    a + b\n}\n".to_owned())).unwrap();
        assert_eq!(
            outcomes.to_string(),
            "2 caught, 1 took too long, 1 did not build, 1 survived"
        );
        let survivor = Survivor {
            file: "a/src/b.rs".to_owned(),
            line: 2,
            mutation: "replace + with - in f".to_owned(),
            code: "a + b".to_owned(),
        };
        assert_eq!(outcomes.survivors, [survivor]);
        assert!(
            Outcomes::parse(&text.replace("Unviable", "Bored"), |_| Ok(String::new())).is_err()
        );
    }
}
