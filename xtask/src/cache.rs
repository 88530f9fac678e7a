// SPDX-License-Identifier: Apache-2.0
//! What is downloaded or made once and kept in the user's cache directory.
//!
//! An entry is a directory named after its kind and a hash of its recipe. It is made under a
//! temporary name and renamed, so an interrupted run leaves nothing half made, and two runs at the
//! same time make it once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::progress;
use crate::scratch::Scratch;

/// `$XDG_CACHE_HOME/bulkhead` or `~/.cache/bulkhead`.
pub(crate) fn dir() -> Result<PathBuf> {
    let set = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let base = match (set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _) => cache,
        (None, Some(home)) => home.join(".cache"),
        (None, None) => bail!("neither XDG_CACHE_HOME nor HOME names a directory for the cache"),
    };
    let dir = base.join("bulkhead");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The entry of this kind and recipe; `make` fills an empty directory when there is none yet.
pub(crate) fn entry(
    kind: &str,
    recipe: &[&str],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let dir = dir()?;
    let path = dir.join(format!("{kind}-{:016x}", hash(recipe)));
    if path.is_dir() {
        return Ok(path);
    }
    let _lock = lock(&dir, kind)?;
    if path.is_dir() {
        return Ok(path);
    }
    remove_leftovers(&dir, kind);
    let scratch = Scratch::new_in(&dir, kind)?;
    make(scratch.path())?;
    fs::rename(scratch.path(), &path)
        .with_context(|| format!("cannot keep {} in the cache", path.display()))?;
    Ok(path)
}

fn lock(dir: &Path, kind: &str) -> Result<File> {
    let path = dir.join(format!("{kind}.lock"));
    let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
    if file.try_lock().is_err() {
        progress::say(format!("waiting for another run that is making the {kind}"));
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(file)
}

/// What a killed run left; the caller holds the lock of this kind.
fn remove_leftovers(dir: &Path, kind: &str) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let prefix = format!("tmp-{kind}-");
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// FNV-1a over the parts and their boundaries: the same on every machine and toolchain.
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_with_other_boundaries_hash_differently() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
