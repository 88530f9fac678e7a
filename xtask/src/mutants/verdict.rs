// SPDX-License-Identifier: Apache-2.0
//! Holds survivors against the accepted ones: neither may be more than the other.

use super::list::Accepted;
use super::outcome::{Outcomes, Survivor};

/// A line for each survivor that is not accepted, and for each accepted one that does not survive.
pub(super) fn complaints(accepted: &[&Accepted], outcomes: &Outcomes) -> Vec<String> {
    let mut left: Vec<&Survivor> = outcomes.survivors.iter().collect();
    let mut lines = Vec::new();
    for entry in accepted {
        let mut found = 0;
        left.retain(|survivor| {
            let taken = found < entry.times && stands_for(entry, survivor);
            found += usize::from(taken);
            !taken
        });
        if found < entry.times {
            let Accepted {
                file,
                mutation,
                code,
                times,
                ..
            } = entry;
            let code = code
                .as_ref()
                .map_or_else(String::new, |code| format!(" ({code})"));
            lines.push(format!(
                "accepted {times} times, survives {found} times; correct assets/mutants.json: {file}: {mutation}{code}"
            ));
        }
    }
    lines.extend(left.into_iter().map(|survivor| {
        let Survivor {
            file,
            line,
            mutation,
            code,
        } = survivor;
        format!("survives, and no reason is listed: {file}:{line}: {mutation} ({code})")
    }));
    lines
}

fn stands_for(entry: &Accepted, survivor: &Survivor) -> bool {
    entry.file == survivor.file
        && entry.mutation == survivor.mutation
        && entry
            .code
            .as_ref()
            .is_none_or(|code| *code == survivor.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(code: Option<&str>, times: usize) -> Accepted {
        Accepted {
            file: "a.rs".to_owned(),
            mutation: "replace + with - in f".to_owned(),
            code: code.map(str::to_owned),
            times,
            reason: "the sum is never read".to_owned(),
        }
    }

    fn survivors(codes: &[&str]) -> Outcomes {
        let survivors = codes.iter().zip(1..).map(|(code, line)| Survivor {
            file: "a.rs".to_owned(),
            line,
            mutation: "replace + with - in f".to_owned(),
            code: (*code).to_owned(),
        });
        Outcomes {
            survivors: survivors.collect(),
            ..Outcomes::default()
        }
    }

    #[test]
    fn survivor_that_is_accepted_is_no_complaint() {
        let (any, one) = (accepted(None, 2), accepted(Some("a + b"), 1));
        assert!(complaints(&[&any], &survivors(&["a + b", "c + d"])).is_empty());
        assert!(complaints(&[&one], &survivors(&["a + b"])).is_empty());
        assert!(complaints(&[], &survivors(&[])).is_empty());
    }

    #[test]
    fn survivor_that_is_not_accepted_is_named_with_its_place() {
        let one = accepted(Some("a + b"), 1);
        let expected = "survives, and no reason is listed: a.rs:2: replace + with - in f (c + d)";
        assert_eq!(
            complaints(&[&one], &survivors(&["a + b", "c + d"])),
            [expected]
        );
        assert_eq!(
            complaints(&[&one], &survivors(&["a + b", "a + b"])).len(),
            1
        );
    }

    #[test]
    fn accepted_that_does_not_survive_is_named() {
        let lines = complaints(&[&accepted(Some("a + b"), 2)], &survivors(&["a + b"]));
        let expected = "accepted 2 times, survives 1 times; correct assets/mutants.json: a.rs: replace + with - in f (a + b)";
        assert_eq!(lines, [expected]);
        assert_eq!(complaints(&[&accepted(None, 1)], &survivors(&[])).len(), 1);
    }
}
