// SPDX-License-Identifier: Apache-2.0
//! What `cargo xtask test --changed` runs: the crates with files that differ from a commit, and those that
//! depend on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::command::output;
use crate::compile;

/// A crate of the workspace.
#[derive(Debug)]
struct Package {
    /// Its directory, from the workspace's root.
    dir: String,
    depends_on: BTreeSet<String>,
}

/// The crates to test after what has changed since `commit`; all of them if what has changed belongs to
/// none, such as the workspace's manifest.
pub(super) fn crates(commit: &str) -> Result<BTreeSet<String>> {
    let root = compile::root()?;
    let mut cargo = compile::cargo()?;
    cargo.args(["metadata", "--format-version", "1", "--no-deps"]);
    let metadata = serde_json::from_slice(&output(&mut cargo)?)?;
    let packages = packages(&metadata, &root).context("cargo metadata")?;
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(&root).args(args);
        Ok::<_, anyhow::Error>(String::from_utf8(output(&mut git)?)?)
    };
    let differs = git(&["diff", "--name-only", commit, "--"])?;
    let new = git(&["ls-files", "--others", "--exclude-standard"])?;
    Ok(affected(&packages, differs.lines().chain(new.lines())))
}

fn packages(metadata: &Value, root: &Path) -> Option<BTreeMap<String, Package>> {
    let all = metadata["packages"].as_array()?;
    let parted = all.iter().map(|package| {
        let manifest = Path::new(package["manifest_path"].as_str()?);
        let dir = manifest.parent()?.strip_prefix(root).ok()?;
        let dependencies = package["dependencies"].as_array()?.iter();
        let names = dependencies.filter_map(|to| to["name"].as_str());
        Some((
            package["name"].as_str()?.to_owned(),
            Package {
                dir: dir.display().to_string(),
                depends_on: names.map(str::to_owned).collect(),
            },
        ))
    });
    parted.collect()
}

fn affected<'a>(
    packages: &BTreeMap<String, Package>,
    files: impl Iterator<Item = &'a str>,
) -> BTreeSet<String> {
    let mut affected = BTreeSet::new();
    for file in files {
        let within = |(_, package): &(&String, &Package)| {
            let rest = file.strip_prefix(package.dir.as_str());
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        // The innermost: crates lie within the directories of others.
        let owner = packages.iter().filter(within);
        match owner.max_by_key(|(_, package)| package.dir.len()) {
            Some((name, _)) => drop(affected.insert(name.clone())),
            // Documents are held to the sources by tests of xtask and of the command line.
            None if file.ends_with(".md") => affected.extend(["xtask".into(), "cli".into()]),
            None => return packages.keys().cloned().collect(),
        }
    }
    loop {
        let more: Vec<_> = packages
            .iter()
            .filter(|(name, package)| {
                !affected.contains(*name) && !package.depends_on.is_disjoint(&affected)
            })
            .map(|(name, _)| name.clone())
            .collect();
        if more.is_empty() {
            return affected;
        }
        affected.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affected_by(files: &[&str]) -> Vec<String> {
        let package = |dir: &str, depends_on: &[&str]| Package {
            dir: dir.into(),
            depends_on: depends_on.iter().map(|name| name.to_string()).collect(),
        };
        let packages = BTreeMap::from([
            ("ipc".to_owned(), package("ipc", &["serde"])),
            ("jailer".to_owned(), package("jailer", &["ipc"])),
            ("jailer-bin".to_owned(), package("jailer/bin", &["jailer"])),
            ("cli".to_owned(), package("cli", &[])),
            ("xtask".to_owned(), package("xtask", &[])),
        ]);
        let affected = affected(&packages, files.iter().copied());
        affected.into_iter().collect()
    }

    #[test]
    fn crate_and_what_depends_on_it_are_affected() {
        assert_eq!(
            affected_by(&["ipc/src/fd.rs"]),
            ["ipc", "jailer", "jailer-bin"]
        );
        assert_eq!(affected_by(&["jailer/bin/src/main.rs"]), ["jailer-bin"]);
        assert_eq!(affected_by(&[]), [""; 0]);
    }

    #[test]
    fn documents_are_of_those_who_check_them_and_the_manifest_of_all() {
        assert_eq!(affected_by(&["docs/guide.md"]), ["cli", "xtask"]);
        assert_eq!(affected_by(&["Cargo.lock"]).len(), 5);
    }
}
