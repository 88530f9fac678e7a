// SPDX-License-Identifier: Apache-2.0
//! The rule that a newcomer can read two paths through the source: docs/architecture.md lists the
//! files of each in order, every file is there, and they are not too many and not too long.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};

use crate::compile;

/// A path, and how long it may be.
struct ReadingPath {
    /// The heading above its list.
    title: &'static str,
    files_max: usize,
    /// Lines without tests.
    lines_max: usize,
}

const PATHS: [ReadingPath; 2] = [
    ReadingPath {
        title: "### From a killed backend to the next one",
        files_max: 25,
        lines_max: 4500,
    },
    ReadingPath {
        title: "### From `bulkhead run` to the first KVM_RUN",
        files_max: 45,
        lines_max: 7000,
    },
];

/// What is wrong with the paths.
pub(super) fn paths() -> Result<Vec<String>> {
    let root = compile::root()?;
    let document = root.join("docs/architecture.md");
    let document = fs::read_to_string(&document).context("docs/architecture.md")?;
    let lines = |file: &str| {
        let text = fs::read_to_string(root.join(file)).ok()?;
        Some(lines_without_tests(&text))
    };
    let complaints = PATHS.iter().flat_map(|path| path.check(&document, &lines));
    Ok(complaints.collect())
}

impl ReadingPath {
    /// What is wrong with this path; `lines` counts those of a file, if it is there.
    fn check(&self, document: &str, lines: &dyn Fn(&str) -> Option<usize>) -> Vec<String> {
        let title = self.title.trim_start_matches(['#', ' ']);
        let files = match self.files(document) {
            Ok(files) => files,
            Err(wrong) => return vec![format!("{title}: {wrong}")],
        };
        let mut complaints = Vec::new();
        let mut total = 0;
        for file in &files {
            match lines(file) {
                Some(count) => total += count,
                None => complaints.push(format!("{title}: `{file}` is not there")),
            }
        }
        let (count, files_max) = (files.len(), self.files_max);
        if count > files_max {
            complaints.push(format!("{title}: {count} files, at most {files_max}"));
        }
        let lines_max = self.lines_max;
        if total > lines_max {
            complaints.push(format!("{title}: {total} lines, at most {lines_max}"));
        }
        complaints
    }

    /// The files of the numbered list below the heading.
    fn files<'a>(&self, document: &'a str) -> Result<Vec<&'a str>, String> {
        let below = document.split_once(self.title).map(|(_, below)| below);
        let section = below.ok_or("docs/architecture.md has no such heading")?;
        let section = section.split("\n#").next().unwrap_or_default();
        let items = section.lines().filter_map(|line| line.split_once(". `"));
        let items = items.filter_map(|(number, rest)| Some((number.parse::<usize>().ok()?, rest)));
        let (mut files, mut seen) = (Vec::new(), BTreeSet::new());
        for (expected, (number, rest)) in (1..).zip(items) {
            let file = rest.split('`').next().unwrap_or_default();
            if number != expected {
                return Err(format!("`{file}` is number {number}, and not {expected}"));
            }
            if !seen.insert(file) {
                return Err(format!("`{file}` is listed twice"));
            }
            files.push(file);
        }
        match files.is_empty() {
            true => Err("its list is empty".to_owned()),
            false => Ok(files),
        }
    }
}

/// The lines of a file above the tests at its end.
fn lines_without_tests(text: &str) -> usize {
    let tests = text.find("\n#[cfg(test)]\nmod tests {");
    text[..tests.unwrap_or(text.len())].lines().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: ReadingPath = ReadingPath {
        title: "### From a to b",
        files_max: 2,
        lines_max: 10,
    };
    const DOCUMENT: &str = "# A\n\n### From a to b\n\nAbout `c.rs`.\n\n1. `a.rs`: begins, see\n   \
        `c.rs`.\n2. `b.rs`: ends.\n\n## B\n\n3. `c.rs`: of another list.\n";

    fn complaints(document: &str, lines: &dyn Fn(&str) -> Option<usize>) -> Vec<String> {
        PATH.check(document, lines)
    }

    #[test]
    fn path_within_its_limits_is_in_order() {
        assert_eq!(PATH.files(DOCUMENT).unwrap(), ["a.rs", "b.rs"]);
        assert_eq!(complaints(DOCUMENT, &|_| Some(5)), Vec::<String>::new());
    }

    #[test]
    fn file_that_is_missing_is_named() {
        let found = complaints(DOCUMENT, &|file| (file != "b.rs").then_some(1));
        assert_eq!(found, ["From a to b: `b.rs` is not there"]);
    }

    #[test]
    fn path_of_too_many_lines_or_files_is_too_long() {
        let found = complaints(DOCUMENT, &|file| Some(if file == "a.rs" { 5 } else { 6 }));
        assert_eq!(found, ["From a to b: 11 lines, at most 10"]);
        let longer = DOCUMENT.replace("\n\n## B", "\n3. `c.rs`: follows.\n\n## B");
        let found = complaints(&longer, &|_| Some(1));
        assert_eq!(found, ["From a to b: 3 files, at most 2"]);
    }

    #[test]
    fn list_that_is_missing_empty_or_out_of_order_is_refused() {
        for (document, told) in [
            ("### From b to a\n\n1. `a.rs`\n", "no such heading"),
            ("### From a to b\n\nNothing.\n", "is empty"),
            (
                "### From a to b\n\n1. `a.rs`\n3. `b.rs`\n",
                "number 3, and not 2",
            ),
            ("### From a to b\n\n1. `a.rs`\n2. `a.rs`\n", "listed twice"),
        ] {
            let found = complaints(document, &|_| Some(1));
            assert!(found[0].contains(told), "{found:?}");
        }
    }

    #[test]
    fn tests_at_the_end_of_a_file_do_not_count() {
        let text = "//! A.\n\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        assert_eq!(lines_without_tests(text), 3);
        let elsewhere = "fn a() {}\n#[cfg(test)]\nmod tests;\n";
        assert_eq!(lines_without_tests(elsewhere), 3);
    }
}
