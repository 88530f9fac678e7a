// SPDX-License-Identifier: Apache-2.0
//! What is downloaded or made once and kept in the user's cache directory.
//!
//! An entry is a directory named after its kind and a hash of its recipe. It is made under a
//! temporary name and renamed, so an interrupted run leaves nothing half made, and two runs at the
//! same time make it once. An entry that no run has used for [`KEPT`] is removed when another of its kind
//! is made.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::progress;
use crate::scratch::Scratch;

/// How long an entry is kept that no run uses.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

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
        return Ok(used(path));
    }
    let _lock = lock(&dir, kind)?;
    if path.is_dir() {
        return Ok(used(path));
    }
    remove_leftovers(&dir, kind);
    remove_unused(&dir, kind, SystemTime::now() - KEPT);
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

/// Notes that an entry was used now, in its time of modification.
fn used(entry: PathBuf) -> PathBuf {
    if let Ok(dir) = File::open(&entry) {
        let _ = dir.set_modified(SystemTime::now());
    }
    entry
}

/// Removes entries of this kind that no run has used since then.
fn remove_unused(dir: &Path, kind: &str, since: SystemTime) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let hash = name.to_string_lossy();
        let hash = hash
            .strip_prefix(kind)
            .and_then(|rest| rest.strip_prefix('-'));
        let is_entry = hash.is_some_and(|hash| {
            hash.len() == 16 && hash.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        if is_entry && modified.is_ok_and(|at| at < since) {
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

    #[test]
    fn entries_of_a_kind_that_no_run_uses_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "guests-0123456789abcdef",
            "guests-aaaabbbbccccdddd",
            "guests-image-0123456789abcdef",
            "guests.lock",
        ];
        let long_ago = SystemTime::now() - 2 * KEPT;
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            File::open(&path).unwrap().set_modified(long_ago).unwrap();
        }
        used(dir.path().join(names[1]));

        remove_unused(dir.path(), "guests", SystemTime::now() - KEPT);

        let left = names.map(|name| dir.path().join(name).exists());
        assert_eq!(left, [false, true, true, true]);
    }
}
