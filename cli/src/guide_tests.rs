// SPDX-License-Identifier: Apache-2.0
//! The guide is held against the command line: what it tells people to type is understood.

use clap::Parser;

use super::Cli;

const GUIDE: &str = include_str!("../../docs/guide.md");

/// The lines of the guide's code, with those that go on joined.
fn code() -> Vec<String> {
    // The language of the code that a line is in.
    let mut language = None;
    let mut lines = Vec::new();
    let mut joined = String::new();
    for line in GUIDE.lines() {
        if let Some(behind) = line.strip_prefix("```") {
            language = language.is_none().then_some(behind);
            continue;
        }
        // What names no language is for a shell.
        if language == Some("") {
            match line.strip_suffix('\\') {
                Some(part) => joined.push_str(part),
                None => lines.push(std::mem::take(&mut joined) + line),
            }
        }
    }
    lines
}

/// Its words, as a shell parts them; up to where the command ends.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            '#' | '|' | '>' | '&' if !quoted && words.last().is_some_and(String::is_empty) => break,
            c => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn guide_tells_nothing_that_is_not_understood() {
    let lines = code();
    let ours = lines.iter().filter(|line| line.starts_with("bulkhead "));
    let mut count = 0;
    for line in ours {
        let parsed = Cli::try_parse_from(words(line));
        assert!(parsed.is_ok(), "{line}\n{}", parsed.unwrap_err());
        count += 1;
    }
    assert!(count > 20, "only {count} commands were found");
}
