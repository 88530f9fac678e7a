// SPDX-License-Identifier: Apache-2.0
//! Counts of tests, and reading them out of what test runners say.

use std::ops::AddAssign;

/// So much of a failure's reason is said again at the end.
const REASON: usize = 400;

/// How many of each, and which failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
    pub(crate) not_applicable: u32,
    /// The name of each, and its reason where there is one.
    pub(crate) failures: Vec<String>,
}

impl Tally {
    /// One test that failed.
    pub(crate) fn failure(name: impl Into<String>) -> Self {
        Self {
            failed: 1,
            failures: vec![name.into()],
            ..Self::default()
        }
    }

    /// One test that passed.
    pub(crate) fn success() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_applicable += other.not_applicable;
        self.failures.extend(other.failures);
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

/// `        FAIL [   0.005s] (1/3) xtask test::tally::tests::name`, or `TIMEOUT`, `SIGABRT` and the like.
pub(crate) fn failure_of_nextest(line: &str) -> Option<&str> {
    let (verdict, rest) = line.trim_start().split_once(" [")?;
    let is_verdict = !verdict.is_empty() && verdict.bytes().all(|byte| byte.is_ascii_uppercase());
    if !is_verdict || matches!(verdict, "PASS" | "SLOW" | "LEAK") {
        return None;
    }
    let (time, name) = rest.split_once("s] ")?;
    time.trim().trim_start_matches('>').parse::<f64>().ok()?;
    // The count is missing if tests are stopped.
    let name = name.trim_start();
    Some(
        match name.strip_prefix('(').and_then(|n| n.split_once(") ")) {
            Some((_, name)) => name,
            None => name,
        },
    )
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
    let (verdict, rest) = line.split_once(' ')?;
    match verdict {
        "ok" => Some(Tally::success()),
        "FAILED" => {
            let rest = rest.trim_start();
            let (name, after) = rest.split_once(" (").unwrap_or((rest, ""));
            let reason = after.split_once("): ").map_or("", |(_, reason)| reason);
            Some(Tally::failure(named(name, reason)))
        }
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

/// A failure in one line: who reads only the end of a run, as CI keeps it, reads the reason too.
pub(crate) fn named(name: &str, reason: &str) -> String {
    let words: Vec<_> = reason.split_whitespace().collect();
    match words.join(" ").chars().take(REASON).collect::<String>() {
        reason if reason.is_empty() => name.to_owned(),
        reason => format!("{name}: {reason}"),
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
                ..Tally::default()
            })
        );
    }

    #[test]
    fn failures_are_named() {
        let failed = "        FAIL [   0.005s] ( 3/12) xtask test::tally::tests::name";
        let aborted = "     SIGABRT [  12.100s] (12/12) jailer tests::other";
        let passed = "        PASS [   0.005s] ( 1/12) xtask test::tally::tests::name";

        assert_eq!(
            failure_of_nextest(failed),
            Some("xtask test::tally::tests::name")
        );
        assert_eq!(failure_of_nextest(aborted), Some("jailer tests::other"));
        assert_eq!(failure_of_nextest(passed), None);
        assert_eq!(failure_of_nextest("  Summary [  1.2s] 12 tests run"), None);
        assert_eq!(
            of_case("FAILED   boot_a (1.0 s): it did not hold"),
            Some(Tally::failure("boot_a: it did not hold"))
        );
    }

    #[test]
    fn reason_of_a_failure_is_one_line_of_bounded_length() {
        assert_eq!(named("boot_a", ""), "boot_a");
        assert_eq!(named("boot_a", "it is\n  not so"), "boot_a: it is not so");
        assert_eq!(named("boot_a", &"ö".repeat(1000)).chars().count(), 408);
    }

    #[test]
    fn summary_of_doctests_is_counted() {
        let line = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";

        assert_eq!(
            of_doctests(line),
            Some(Tally {
                passed: 3,
                skipped: 1,
                ..Tally::default()
            })
        );
    }

    #[test]
    fn line_that_is_no_summary_counts_nothing() {
        assert_eq!(of_nextest("12 passed"), None);
        assert_eq!(of_case("    ok is what a case itself said"), None);
    }
}
