// SPDX-License-Identifier: Apache-2.0
//! Directories that live as long as one run of a task, also when a signal ends it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A directory that goes when this value does.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new empty one in the system's temporary directory.
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        Self::new_in(&std::env::temp_dir(), purpose)
    }

    /// A new empty one in `parent`.
    pub(crate) fn new_in(parent: &Path, purpose: &str) -> Result<Self> {
        let path = tempfile::Builder::new()
            .prefix(&format!("tmp-{purpose}-"))
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?
            .keep();
        LIVE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(path.clone());
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        LIVE.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path| *path != self.path);
        // Gone already when its content was renamed into the cache.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes every scratch directory there is; for the signal handler.
pub(crate) fn remove_all() {
    for path in LIVE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .drain(..)
    {
        let _ = fs::remove_dir_all(path);
    }
}
