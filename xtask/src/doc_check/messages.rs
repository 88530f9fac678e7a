// SPDX-License-Identifier: Apache-2.0
//! The table of error messages in docs/guide.md: what it quotes is what the programs say.

use std::fs;

use nix::errno::Errno;

use super::proofs::sources;
use crate::compile;

const TITLE: &str = "## When it does not work";

/// The messages that the table quotes; others' are told apart by what is said behind them.
fn messages(guide: &str) -> Vec<&str> {
    let (_, table) = guide.split_once(TITLE).unwrap();
    let cells = table.lines().filter_map(|line| {
        let (cell, _) = line.strip_prefix("| `")?.split_once(" | ")?;
        cell.strip_suffix('`')
    });
    cells.collect()
}

/// What of a message never changes: its field, with the quote before it in the sources, and the
/// pieces of its reason between what stands for a value.
fn fixed(message: &str) -> Vec<String> {
    let (field, reason) = match message.split_once(": ") {
        Some((subject, reason)) => (subject.split_once(' ').map(|(field, _)| field), reason),
        None => (None, message),
    };
    let mut pieces: Vec<_> = field
        .map(|field| format!("\"{field}"))
        .into_iter()
        .collect();
    // Every other part is in quotes: a value.
    for part in reason.split('"').step_by(2) {
        let words = part
            .split(' ')
            .map(|word| match word.trim_end_matches(',') {
                "N" => "…",
                number if number.parse::<u64>().is_ok() => "…",
                _ => word,
            });
        let words = words.collect::<Vec<_>>().join(" ").replace(": ", "…");
        let fixed = words.split(['…', '(']).map(str::trim);
        pieces.extend(fixed.filter(|piece| piece.len() > 1).map(String::from));
    }
    pieces
}

/// What may be said: the sources' text, without their tests and with strings that go on in the next
/// line joined, and the kernel's words.
fn text() -> String {
    let mut all = Vec::new();
    sources(&compile::root().unwrap(), &mut all);
    let is_test = |path: &std::path::Path| {
        let path = path.to_str().unwrap();
        path.contains("tests") || path.contains("/xtask/")
    };
    let shipped = all.iter().filter(|(path, _)| !is_test(path));
    let code = shipped.map(|(_, source)| source.split("#[cfg(test)]\nmod tests {").next().unwrap());
    let lines = code.flat_map(str::lines).map(str::trim_start);
    let errnos: String = (1..134).map(|n| Errno::from_raw(n).desc()).collect();
    lines.fold(errnos, |text, line| match line.strip_suffix('\\') {
        Some(start) => text + start,
        None => text + line + "\n",
    })
}

#[test]
fn message_quoted_is_one_that_is_said() {
    let guide = fs::read_to_string(compile::root().unwrap().join("docs/guide.md")).unwrap();
    let (messages, text) = (messages(&guide), text());
    assert!(messages.len() > 30, "the table is not where it was");
    let unsaid: Vec<_> = messages
        .into_iter()
        .map(|message| (message, fixed(message)))
        .filter(|(_, pieces)| !pieces.iter().all(|piece| text.contains(piece)))
        .collect();
    assert!(unsaid.is_empty(), "no program says {unsaid:#?}");
}

#[test]
fn message_is_parted_from_its_values() {
    let pieces = fixed("disk \"x\": the image has 7 bytes, which is 7, of …: add \"y\" to it");
    let wanted = [
        "\"disk",
        "the image has",
        "bytes, which is",
        "of",
        "add",
        "to it",
    ];
    assert_eq!(pieces, wanted);
}
