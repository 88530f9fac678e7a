// SPDX-License-Identifier: Apache-2.0
//! Room on the disks that a whole run fills, looked at before it begins.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::{cache, compile};

/// What a whole run takes on a fresh machine: `target`, downloads and images of labs.
const RUN_BYTES: u64 = 12 << 30;
/// What is needed even if all of that is there: copies of images, guests' disks, packages' roots.
const LEAST_BYTES: u64 = 5 << 30;

/// Refuses to begin a whole run that has no room to end.
pub(crate) fn check() -> Result<()> {
    let target = compile::target_dir()?;
    let is_first = !target.join("release").exists();
    let needed = if is_first { RUN_BYTES } else { LEAST_BYTES };
    let nearest = target.ancestors().find(|dir| dir.exists());
    for (dir, needed) in [
        (nearest.unwrap_or(Path::new("/")), needed),
        (&cache::dir()?, needed),
        (&std::env::temp_dir(), LEAST_BYTES / 2),
    ] {
        let free = free_bytes(dir)?;
        ensure!(
            free >= needed,
            "{}: {} GiB are free on its disk, and a whole run needs {}: remove target directories that are not \
             used (cargo clean), or set CARGO_TARGET_DIR, XDG_CACHE_HOME or TMPDIR to another disk",
            dir.display(),
            free >> 30,
            needed >> 30
        );
    }
    Ok(())
}

/// What a program may still write there.
fn free_bytes(dir: &Path) -> Result<u64> {
    let room = rustix::fs::statvfs(dir)
        .with_context(|| format!("cannot look at the disk of {}", dir.display()))?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_that_of_the_disk_of_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).unwrap() > 0);
        assert!(free_bytes(&dir.path().join("none")).is_err());
    }
}
