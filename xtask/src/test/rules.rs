// SPDX-License-Identifier: Apache-2.0
//! Rules about the source as a whole: which crate may depend on which, and how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command::output;
use crate::compile;

/// The table in CONTRIBUTING.md begins below this line.
const TITLE: &str = "## Which crate may depend on which";
/// The most lines of a file that is not of tests.
const LINES_MAX: usize = 400;

type Names = BTreeSet<String>;
/// Of each crate what it depends on: itself, and its tests beside that.
type Dependencies = BTreeMap<String, (Names, Names)>;

/// What is wrong with the dependencies between our crates: they are those of the table, no more and no
/// fewer.
pub(super) fn dependencies() -> Result<Vec<String>> {
    let contributing = fs::read_to_string(compile::root()?.join("CONTRIBUTING.md"))?;
    let allowed = table(&contributing).context("CONTRIBUTING.md has no table of crates")?;
    let mut cargo = compile::cargo()?;
    cargo.args(["metadata", "--format-version", "1", "--no-deps"]);
    let metadata = serde_json::from_slice(&output(&mut cargo)?)?;
    Ok(compare(&allowed, &actual(&metadata)))
}

/// The rows of the table: crate, dependencies, those of its tests.
fn table(text: &str) -> Option<Dependencies> {
    let (_, below) = text.split_once(TITLE)?;
    let section = below.split("\n## ").next()?;
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(quoted).collect());
    let parted = cells.map(|cells: Vec<Names>| {
        let [name, own, tests] = cells.try_into().ok()?;
        Some((name.into_iter().next()?, (own, tests)))
    });
    parted.collect()
}

/// What is between backticks.
fn quoted(cell: &str) -> Names {
    let names = cell.split('`').skip(1).step_by(2);
    names.map(str::to_owned).collect()
}

/// What cargo says of the workspace's crates.
fn actual(metadata: &Value) -> Dependencies {
    let packages = || metadata["packages"].as_array().into_iter().flatten();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let ours: Names = packages().map(name).collect();
    let parted = packages().map(|package| {
        let (mut own, mut tests) = (Names::new(), Names::new());
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = name(dependency);
            if !ours.contains(&to) || to == name(package) {
                continue;
            }
            match dependency["kind"].as_str() {
                Some("dev") => tests.insert(to),
                _ => own.insert(to),
            };
        }
        tests.retain(|to| !own.contains(to));
        (name(package), (own, tests))
    });
    parted.collect()
}

fn compare(allowed: &Dependencies, actual: &Dependencies) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, found) in actual {
        let Some(listed) = allowed.get(name) else {
            complaints.push(format!("`{name}` is not in the table of CONTRIBUTING.md"));
            continue;
        };
        for (what, found, listed) in [
            ("", &found.0, &listed.0),
            (" in its tests", &found.1, &listed.1),
        ] {
            let more = found.difference(listed);
            complaints.extend(more.map(|to| format!("`{name}` must not depend on `{to}`{what}")));
            let fewer = listed.difference(found);
            complaints.extend(fewer.map(|to| {
                format!("`{name}` does not depend on `{to}`{what}: take it out of the table")
            }));
        }
    }
    let gone = allowed.keys().filter(|name| !actual.contains_key(*name));
    complaints.extend(gone.map(|name| format!("`{name}` is in the table, and no crate")));
    complaints
}

/// The files that are too long to be read at once.
pub(super) fn lengths() -> Result<Vec<String>> {
    let mut too_long = Vec::new();
    let root = compile::root()?;
    walk(&root, &mut |path| {
        let text = fs::read_to_string(path)?;
        let (lines, shown) = (text.lines().count(), path.strip_prefix(&root)?);
        if lines > LINES_MAX && !is_of_tests(shown) {
            let shown = shown.display();
            too_long.push(format!(
                "{shown} has {lines} lines, at most {LINES_MAX} are read at once"
            ));
        }
        Ok(())
    })?;
    Ok(too_long)
}

/// Whether a file is there for tests only.
pub(super) fn is_of_tests(path: &Path) -> bool {
    let parts = path.iter().map(|part| part.to_string_lossy());
    parts.into_iter().any(|part| {
        let name = part.trim_end_matches(".rs");
        name == "testing" || name == "tests" || name.ends_with("_tests")
    })
}

/// Every source file below a directory.
pub(super) fn walk(dir: &Path, visit: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !name.starts_with('.') && name != "target" {
            walk(&path, visit)?;
        } else if name.ends_with(".rs") {
            visit(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "## Which crate may depend on which\n\n| crate | depends on | tests |\n\
        |---|---|---|\n| `a` | `b`, `c` | |\n| `b` | | `c` |\n| `c` | | |\n";

    fn complaints(metadata: &str) -> Vec<String> {
        let metadata = serde_json::from_str(metadata).unwrap();
        compare(&table(TABLE).unwrap(), &actual(&metadata))
    }

    fn package(name: &str, dependencies: &[(&str, &str)]) -> String {
        let dependencies = dependencies
            .iter()
            .map(|(to, kind)| format!(r#"{{"name": "{to}", "kind": {kind}}}"#));
        let dependencies: Vec<_> = dependencies.collect();
        let dependencies = dependencies.join(", ");
        format!(r#"{{"name": "{name}", "dependencies": [{dependencies}]}}"#)
    }

    fn workspace(packages: &[String]) -> String {
        format!(r#"{{"packages": [{}]}}"#, packages.join(", "))
    }

    #[test]
    fn dependencies_that_are_those_of_the_table_are_in_order() {
        let found = complaints(&workspace(&[
            package("a", &[("b", "null"), ("c", r#""build""#), ("libc", "null")]),
            package("b", &[("c", r#""dev""#)]),
            package("c", &[]),
        ]));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn dependency_too_many_or_too_few_is_named() {
        let found = complaints(&workspace(&[
            package("a", &[("b", "null")]),
            package("b", &[("c", "null")]),
            package("c", &[("d", "null")]),
            package("d", &[]),
        ]));
        let expected = [
            "`a` does not depend on `c`: take it out of the table",
            "`b` must not depend on `c`",
            "`b` does not depend on `c` in its tests: take it out of the table",
            "`c` must not depend on `d`",
            "`d` is not in the table of CONTRIBUTING.md",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn crate_of_the_table_that_is_not_there_is_named() {
        let found = complaints(&workspace(&[package("b", &[]), package("c", &[])]));
        assert!(found.contains(&"`a` is in the table, and no crate".to_owned()));
    }

    #[test]
    fn file_of_tests_is_known_by_its_name() {
        for path in [
            "a/tests/b.rs",
            "a/src/b/tests.rs",
            "a/src/b_tests.rs",
            "a/testing.rs",
        ] {
            assert!(is_of_tests(Path::new(path)), "{path}");
        }
        assert!(!is_of_tests(Path::new("a/src/contests.rs")));
    }
}
