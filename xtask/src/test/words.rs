// SPDX-License-Identifier: Apache-2.0
//! The rule that words which were replaced by the field's do not come back: the list is in
//! CONTRIBUTING.md, and holds for sources and documents.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::rules::walk;
use crate::compile;

/// The list in CONTRIBUTING.md is below this line, each word between backticks.
const TITLE: &str = "## Words that do not come back";
/// Where the words are told of.
const EXEMPT: [&str; 2] = ["CONTRIBUTING.md", "CHANGELOG.md"];

/// Where a word of the list is.
pub(super) fn gone() -> Result<Vec<String>> {
    let root = compile::root()?;
    let list = fs::read_to_string(root.join("CONTRIBUTING.md"))?;
    let words = listed(&list).context("CONTRIBUTING.md has no list of words")?;
    let mut found = Vec::new();
    let mut look = |path: &Path| {
        let shown = path.strip_prefix(&root)?.display().to_string();
        if !EXEMPT.contains(&shown.as_str()) {
            found.extend(occurrences(&words, &shown, &fs::read_to_string(path)?));
        }
        Ok(())
    };
    walk(&root, &mut look)?;
    for dir in [root.clone(), root.join("docs")] {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                look(&path)?;
            }
        }
    }
    Ok(found)
}

/// The words of the list.
fn listed(text: &str) -> Option<BTreeSet<String>> {
    let (_, below) = text.split_once(TITLE)?;
    let section = below.split("\n## ").next()?;
    let words = section.split('`').skip(1).step_by(2);
    Some(words.map(str::to_lowercase).collect())
}

/// The lines of a file with one of the words, also as a part of a name.
fn occurrences(words: &BTreeSet<String>, file: &str, text: &str) -> Vec<String> {
    let lines = (1..).zip(text.lines());
    let found = lines.filter_map(|(number, line)| {
        let line = line.to_lowercase();
        let word = words.iter().find(|word| line.contains(word.as_str()))?;
        Some(format!(
            "{file}:{number}: {word:?} was replaced: see CONTRIBUTING.md"
        ))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_of_the_list_is_found_in_names_and_whatever_its_case() {
        let list = format!("# A\n\n{TITLE}\n\nNot `gnome`, nor `elf`.\n\n## B\n\n`orc`\n");
        let words = listed(&list).unwrap();
        assert_eq!(words.len(), 2);
        let found = occurrences(
            &words,
            "a.rs",
            "fn hear_gnome() {}\nlet orc = 1;\n// An ELF-Gnome.\n",
        );
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("a.rs:1: \"gnome\""), "{found:?}");
        assert!(found[1].starts_with("a.rs:3: "), "{found:?}");
    }
}
