// SPDX-License-Identifier: Apache-2.0
//! The claims of docs/security.md: each names a proof, and each proof that is named is there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::compile;

const TITLE: &str = "## Which test proves what";

/// All source of the repository: where, and what.
pub(super) fn sources(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// The rows of the table: claim and proof.
fn rows(text: &str) -> Vec<(&str, &str)> {
    let (_, after) = text.split_once(TITLE).unwrap();
    let (table, _) = after.split_once("\n## ").unwrap();
    let rows = table.lines().filter_map(|line| {
        let (claim, proof) = line
            .strip_prefix("| ")?
            .strip_suffix(" |")?
            .split_once(" | ")?;
        (claim != "claim").then_some((claim, proof))
    });
    rows.collect()
}

/// What a proof names: each name, and what was said before it.
fn names(proof: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = proof.split('`').collect();
    let pairs = parts.chunks_exact(2);
    pairs.map(|pair| (pair[0], pair[1])).collect()
}

/// Whether a test, a module of tests, a file or a crate of this name is there.
fn exists(root: &Path, sources: &[(PathBuf, String)], name: &str) -> bool {
    let has = |text: &str| sources.iter().any(|(_, source)| source.contains(text));
    if let Some(module) = name.strip_suffix("::tests") {
        let module = module.replace("::", "/");
        let (file, dir) = (format!("{module}.rs"), format!("{module}/tests.rs"));
        return sources.iter().any(|(path, source)| {
            path.ends_with(&dir) || (path.ends_with(&file) && source.contains("mod tests"))
        });
    }
    let is_file = name.contains('/') || !name.contains('_');
    match name.strip_suffix('*') {
        Some(prefix) => has(&format!("\"{prefix}")) || has(&format!("fn {prefix}")),
        None if is_file => root.join(name).exists(),
        None => has(&format!("fn {name}(")) || has(&format!("\"{name}\"")),
    }
}

#[test]
fn proof_of_each_claim_is_there() {
    let root = compile::root().unwrap();
    let text = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let (mut all, mut missing) = (Vec::new(), Vec::new());
    sources(&root, &mut all);
    let rows = rows(&text);
    assert!(rows.len() > 20, "the table is not where it was");
    for (claim, proof) in rows {
        let named = names(proof);
        assert!(
            !named.is_empty() || proof.starts_with("the same"),
            "{claim}: nothing proves it"
        );
        let mut fuzzed = false;
        for (before, name) in named {
            fuzzed = before.ends_with("fuzz ") || (fuzzed && before == ", ");
            let there = match fuzzed {
                true => all
                    .iter()
                    .any(|(_, s)| s.contains(&format!("target(\"{name}\""))),
                false => exists(&root, &all, name),
            };
            if !there {
                missing.push(name);
            }
        }
    }
    assert!(
        missing.is_empty(),
        "named in docs/security.md and not there: {missing:?}"
    );
}

#[test]
fn proof_that_is_not_there_is_missed() {
    let root = compile::root().unwrap();
    let source = "fn some_test() { case(\"a_case_that_is\") } fn some_name_1() {}";
    let all = [(PathBuf::from("devices/src/msix.rs"), source.to_owned())];
    let exists = |name: &str| exists(&root, &all, name);
    assert!(exists("some_test") && exists("a_case_that_is") && exists("a_case_*"));
    assert!(exists("xtask/Cargo.toml") && exists("jailer"));
    for name in [
        "some_tes",
        "a_case_that",
        "b_case_*",
        "xtask/none",
        "none",
        "msix::tests",
    ] {
        assert!(!exists(name), "{name}");
    }
}
