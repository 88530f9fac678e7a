// SPDX-License-Identifier: Apache-2.0
//! Counts of tests, and reading them out of what test runners say.

use std::ops::AddAssign;

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
    pub(crate) not_applicable: u32,
}

impl Tally {
    /// One test that failed.
    pub(crate) const FAILURE: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
        not_applicable: 0,
    };
    /// One test that passed.
    pub(crate) const SUCCESS: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
        not_applicable: 0,
    };
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_applicable += other.not_applicable;
    }
}

/// `Summary [ 0.1s] 12 tests run: 11 passed (1 slow), 1 failed, 2 skipped`
pub(crate) fn of_nextest(line: &str) -> Option<Tally> {
    let (_, counts) = line
        .split_once(" tests run: ")
        .or_else(|| line.split_once(" test run: "))?;
    let failures = ["failed", "timed out", "exec failed"];
    Some(Tally {
        passed: count(counts, "passed"),
        failed: failures.iter().map(|word| count(counts, word)).sum(),
        skipped: count(counts, "skipped"),
        ..Tally::default()
    })
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out`
pub(crate) fn of_doctests(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    Some(Tally {
        passed: count(counts, "passed"),
        failed: count(counts, "failed"),
        skipped: count(counts, "ignored"),
        ..Tally::default()
    })
}

/// What our own runner says about one case.
pub(crate) fn of_case(line: &str) -> Option<Tally> {
    match line.split_once(' ')?.0 {
        "ok" => Some(Tally::SUCCESS),
        "FAILED" => Some(Tally::FAILURE),
        "skipped" => Some(Tally {
            skipped: 1,
            ..Tally::default()
        }),
        "n/a" => Some(Tally {
            not_applicable: 1,
            ..Tally::default()
        }),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_nextest_with_remarks_is_counted() {
        let line = "  Summary [  1.2s] 12 tests run: 9 passed (2 slow), 3 failed, 4 skipped";

        assert_eq!(
            of_nextest(line),
            Some(Tally {
                passed: 9,
                failed: 3,
                skipped: 4,
                not_applicable: 0
            })
        );
    }

    #[test]
    fn summary_of_doctests_is_counted() {
        let line = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";

        assert_eq!(
            of_doctests(line),
            Some(Tally {
                passed: 3,
                failed: 0,
                skipped: 1,
                not_applicable: 0
            })
        );
    }

    #[test]
    fn line_that_is_no_summary_counts_nothing() {
        assert_eq!(of_nextest("12 passed"), None);
        assert_eq!(of_case("    ok is what a case itself said"), None);
    }
}
