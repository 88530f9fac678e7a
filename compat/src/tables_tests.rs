// SPDX-License-Identifier: Apache-2.0
//! docs/compatibility.md says of endpoints and fields what the program does.

use crate::endpoints::ENDPOINTS;
use crate::fields::{FIELDS, Rule};

const DOCUMENT: &str = include_str!("../../docs/compatibility.md");

/// The rows of the section's table, without its head.
fn rows(section: &str) -> Vec<&'static str> {
    let (_, below) = DOCUMENT.split_once(&format!("\n## {section}\n")).unwrap();
    let section = below.split("\n## ").next().unwrap();
    section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect()
}

#[test]
fn endpoints_are_those_of_the_document() {
    let rows = rows("Endpoints");
    assert_eq!(rows.len(), ENDPOINTS.len());
    for (row, endpoint) in rows.iter().zip(ENDPOINTS) {
        let name = format!("| `{} {}` |", endpoint.method, endpoint.name);
        assert!(row.starts_with(&name), "{row}");
        let here = row.trim_end_matches(" |").rsplit("| ").next().unwrap();
        assert_eq!(
            here.starts_with("supported"),
            endpoint.serves.is_ok(),
            "{row}"
        );
        assert_eq!(here == "refused", endpoint.serves.is_err(), "{row}");
    }
}

#[test]
fn fields_are_those_of_the_document() {
    let wanted = FIELDS.iter().map(|(field, rule)| match rule {
        Rule::Used => format!("| `{field}` | used |"),
        Rule::Ignored(why) => format!("| `{field}` | ignored: {why} |"),
        Rule::Refused(why) => format!("| `{field}` | refused: {why} |"),
    });
    let wanted: Vec<_> = wanted.collect();
    assert_eq!(
        rows("Fields"),
        wanted,
        "the table must be\n{}",
        wanted.join("\n")
    );
}
