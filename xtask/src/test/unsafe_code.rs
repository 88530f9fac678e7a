// SPDX-License-Identifier: Apache-2.0
//! The rule that `unsafe` is in the files of the table in docs/unsafe.md, and in each of them.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;

use super::circles::code;
use super::rules::{is_of_tests, walk};
use crate::compile;

/// Files with unsafe code that are not in the table, and the other way round.
pub(super) fn unlisted() -> Result<Vec<String>> {
    let root = compile::root()?;
    let listed = listed(&fs::read_to_string(root.join("docs/unsafe.md"))?);
    let mut found = BTreeSet::new();
    walk(&root, &mut |path| {
        let shown = path.strip_prefix(&root)?;
        if !is_of_tests(shown) && has_unsafe(&fs::read_to_string(path)?) {
            found.insert(shown.display().to_string());
        }
        Ok(())
    })?;
    let more = found.difference(&listed);
    let more = more.map(|file| format!("{file} has unsafe code: it is not in docs/unsafe.md"));
    let fewer = listed.difference(&found);
    let fewer = fewer.map(|file| format!("{file} is in docs/unsafe.md and has no unsafe code"));
    Ok(more.chain(fewer).collect())
}

/// The files of the table.
fn listed(text: &str) -> BTreeSet<String> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let files = rows.filter_map(|row| row.split('`').next());
    files.map(str::to_owned).collect()
}

/// Whether a block, an implementation or a function is unsafe.
fn has_unsafe(text: &str) -> bool {
    let code = code(text);
    let begins = ["{", "impl ", "fn ", "extern "];
    let mut rests = code.split("unsafe ").skip(1);
    rests.any(|rest| begins.iter().any(|begin| rest.starts_with(begin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_seen_and_attributes_comments_and_tests_are_not() {
        assert!(has_unsafe("fn a() { unsafe { b() } }"));
        assert!(has_unsafe("unsafe impl Send for A {}"));
        assert!(!has_unsafe(
            "#![allow(unsafe_code)]\n// unsafe\n#[cfg(test)]\nmod tests { unsafe {} }"
        ));
    }

    #[test]
    fn table_names_its_files() {
        let table = "| file | what for |\n|---|---|\n| `a/b.rs` | `c` |\n";
        assert_eq!(listed(table), BTreeSet::from(["a/b.rs".to_owned()]));
    }
}
