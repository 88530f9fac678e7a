// SPDX-License-Identifier: Apache-2.0
//! The rule that no modules of a crate import each other in a circle: a module can be read with what is
//! below it, and without what is above. The modules are those that the root of a crate declares; what one
//! imports is read off the paths in its files, tests left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::rules::{is_of_tests, walk};
use crate::compile;

/// Of each module what it imports.
type Imports = BTreeMap<String, BTreeSet<String>>;

/// The circles of all crates.
pub(super) fn circles() -> Result<Vec<String>> {
    let root = compile::root()?;
    let mut crates = BTreeMap::<String, Vec<(String, String)>>::new();
    walk(&root, &mut |path| {
        let shown = path.strip_prefix(&root)?;
        let shown = shown.to_string_lossy();
        if let Some((name, file)) = shown.split_once("/src/")
            && !is_of_tests(Path::new(shown.as_ref()))
            && file != "models.rs"
        {
            let files = crates.entry(name.to_owned()).or_default();
            files.push((file.to_owned(), fs::read_to_string(path)?));
        }
        Ok(())
    })?;
    let circles = crates.iter().filter_map(|(name, files)| {
        let circle = circle(&imports(files))?;
        Some(format!("{name}: {} import each other", circle.join(" → ")))
    });
    Ok(circles.collect())
}

/// What the modules of a crate import, from its files below `src` and their text.
fn imports(files: &[(String, String)]) -> Imports {
    let module = |file: &str| {
        let first = file.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs").to_owned()
    };
    let modules: BTreeSet<_> = files.iter().map(|(file, _)| module(file)).collect();
    let mut imports = Imports::new();
    for (file, text) in files {
        let from = module(file);
        if ["lib", "main"].contains(&from.as_str()) {
            continue;
        }
        let code = code(text);
        let mut names = named_behind("crate::", &code);
        if !file.contains('/') {
            names.extend(named_behind("super::", &code));
        }
        let to = names.into_iter().filter(|name| *name != from);
        let to = to.filter(|name| modules.contains(name));
        imports.entry(from.clone()).or_default().extend(to);
    }
    imports
}

/// A file without comments and without the tests at its end.
pub(super) fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next();
    let lines = text.unwrap_or_default().lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The names that follow a prefix of a path, also within braces: `crate::a`, `crate::{a, b::c}`.
fn named_behind(prefix: &str, code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for rest in code.split(prefix).skip(1) {
        let paths = match rest.strip_prefix('{') {
            Some(braced) => outer(braced),
            None => vec![rest],
        };
        for path in paths {
            let name = path.trim_start().chars();
            let name: String = name
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            names.insert(name);
        }
    }
    names
}

/// The parts between the commas of a braced list, up to its end; inner lists stay whole.
fn outer(list: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth) = (Vec::new(), 0, 0_u32);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&list[from..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts
}

/// A circle, if there is one: each imports the next, and the last is the first again.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn follow(imports: &Imports, way: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let Some(here) = way.last().cloned() else {
            return false;
        };
        for next in imports.get(&here).into_iter().flatten() {
            if let Some(begin) = way.iter().position(|module| module == next) {
                way.drain(..begin);
                way.push(next.clone());
                return true;
            }
            if !done.contains(next) {
                way.push(next.clone());
                if follow(imports, way, done) {
                    return true;
                }
            }
        }
        way.pop();
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|module| {
        let mut way = vec![module.clone()];
        (!done.contains(module) && follow(imports, &mut way, &mut done)).then_some(way)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle_of(files: &[(&str, &str)]) -> Option<Vec<String>> {
        let files: Vec<_> = files
            .iter()
            .map(|(file, text)| (file.to_string(), text.to_string()))
            .collect();
        circle(&imports(&files))
    }

    #[test]
    fn modules_that_import_each_other_are_a_circle() {
        let found = circle_of(&[
            ("lib.rs", "mod a; use crate::a::X;"),
            ("a.rs", "use crate::b::{self, Y};"),
            ("b.rs", "use crate::{std_like::Z, c::{d, e}};"),
            ("c/d.rs", "use crate::a::X;"),
            ("c.rs", ""),
        ]);
        assert_eq!(found.unwrap().join(" "), "a b c a");
    }

    #[test]
    fn imports_of_tests_of_comments_and_within_a_module_are_none() {
        let found = circle_of(&[
            ("a.rs", "use super::b::Y;\n// crate::a\n"),
            ("b.rs", "#[cfg(test)]\nmod tests { use crate::a::X; }"),
            ("b/c.rs", "use super::a; use crate::b::Y;"),
        ]);
        assert_eq!(found, None);
    }
}
