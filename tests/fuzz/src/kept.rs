// SPDX-License-Identifier: Apache-2.0
//! Inputs that are kept in the repository.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Inputs that reach what a target can reach.
pub const CORPUS: &str = "corpus";
/// Inputs that once found something.
pub const REGRESSIONS: &str = "regressions";

/// Where a target's inputs of a kind are.
pub fn directory(kind: &str, target: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(kind).join(target)
}

/// The inputs in a directory, by name; none if there is no directory.
pub fn inputs(directory: &Path) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let content = fs::read(&path)?;
        found.push((path, content));
    }
    found.sort();
    Ok(found)
}
