// SPDX-License-Identifier: Apache-2.0
//! The list of modules and of accepted survivors, `assets/mutants.json`.

use serde::Deserialize;

use super::{Context, Result, ensure};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    pub(super) modules: Vec<Part>,
    pub(super) accepted: Vec<Accepted>,
}

/// The files of a module that are in one package; a module can have parts in several.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// The module's name.
    pub(super) name: String,
    pub(super) package: String,
    pub(super) files: Vec<String>,
    /// The tests that must notice: each is a part of their names. Without one, all of the package's.
    #[serde(default)]
    pub(super) tests: Vec<String>,
}

/// Mutants that may survive.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Accepted {
    pub(super) file: String,
    /// What cargo-mutants says of it, without the file's name and the place in it.
    pub(super) mutation: String,
    /// The line of code that it changes, where the file has more than one such mutant.
    pub(super) code: Option<String>,
    /// How many such mutants survive there.
    #[serde(default = "once")]
    pub(super) times: usize,
    pub(super) reason: String,
}

fn once() -> usize {
    1
}

impl List {
    pub(super) fn load() -> Result<Self> {
        Self::parse(include_str!("../../assets/mutants.json"))
    }

    fn parse(text: &str) -> Result<Self> {
        let list: Self = serde_json::from_str(text).context("assets/mutants.json")?;
        for Accepted {
            file,
            mutation,
            reason,
            times,
            ..
        } in &list.accepted
        {
            let has_reason = !reason.trim().is_empty();
            ensure!(
                has_reason,
                "assets/mutants.json: {file}: {mutation}: give it a reason"
            );
            ensure!(
                *times > 0,
                "assets/mutants.json: {file}: {mutation}: 0 times: remove it"
            );
        }
        Ok(list)
    }

    /// The parts of one module, or of all.
    pub(super) fn parts(&self, module: Option<&str>) -> Result<Vec<&Part>> {
        let is_wanted = |part: &&Part| module.is_none_or(|name| part.name == name);
        let parts: Vec<&Part> = self.modules.iter().filter(is_wanted).collect();
        ensure!(
            !parts.is_empty(),
            "module {:?}: must be one of {}",
            module.unwrap_or_default(),
            self.names().join(", ")
        );
        Ok(parts)
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.modules.iter().map(|part| part.name.as_str()).collect();
        names.dedup();
        names
    }

    pub(super) fn accepted_in(&self, files: &[String]) -> Vec<&Accepted> {
        let is_there = |accepted: &&Accepted| files.contains(&accepted.file);
        self.accepted.iter().filter(is_there).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::compile;

    fn text(file: &str) -> String {
        fs::read_to_string(compile::root().unwrap().join(file))
            .unwrap_or_else(|e| panic!("{file}: {e}"))
    }

    #[test]
    fn file_and_package_of_each_module_are_there() {
        let list = List::load().unwrap();
        let mut seen = BTreeSet::new();
        for part in &list.modules {
            let manifest = text(&format!("{}/Cargo.toml", part.package));
            assert!(manifest.contains(&format!("name = \"{}\"", part.package)));
            assert!(!part.files.is_empty(), "{}: no file", part.name);
            for file in &part.files {
                assert!(
                    file.starts_with(&format!("{}/src/", part.package)),
                    "{file}"
                );
                assert!(!text(file).is_empty() && seen.insert(file), "{file}");
            }
        }
    }

    #[test]
    fn accepted_survivor_is_of_a_listed_file_and_a_line_that_is_there() {
        let list = List::load().unwrap();
        let files: BTreeSet<&String> = list.modules.iter().flat_map(|part| &part.files).collect();
        for Accepted {
            file,
            mutation,
            code,
            ..
        } in &list.accepted
        {
            assert!(files.contains(file), "{file}: in no module");
            let text = text(file);
            let is_there = |code: &String| text.lines().any(|line| line.trim() == code);
            assert!(
                code.as_ref().is_none_or(is_there),
                "{file}: {mutation}: no line {code:?}"
            );
        }
    }

    #[test]
    fn accepted_survivor_without_a_reason_is_refused() {
        let list = |reason: &str, times: u32| {
            let accepted = format!(
                r#"{{"file": "a.rs", "mutation": "replace f with ()", "reason": "{reason}", "times": {times}}}"#
            );
            List::parse(&format!(r#"{{"modules": [], "accepted": [{accepted}]}}"#))
        };
        assert!(list("f does nothing", 1).is_ok());
        let error = list(" ", 1).unwrap_err().to_string();
        assert_eq!(
            error,
            "assets/mutants.json: a.rs: replace f with (): give it a reason"
        );
        assert!(list("f does nothing", 0).is_err());
    }

    #[test]
    fn module_that_is_not_there_is_refused_with_those_that_are() {
        let list = List::load().unwrap();
        assert_eq!(list.parts(Some("ioapic")).unwrap().len(), 1);
        assert_eq!(list.parts(None).unwrap().len(), list.modules.len());
        let error = list.parts(Some("apic")).unwrap_err().to_string();
        assert!(
            error.starts_with("module \"apic\": must be one of ioapic, "),
            "{error}"
        );
    }
}
