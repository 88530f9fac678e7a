// SPDX-License-Identifier: Apache-2.0
//! What happened when, in seconds since the case began.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// Where the lines are kept, in the case's directory.
pub(super) const FILE: &str = "timeline";

/// What the last line begins with if something did not hold; the reason follows.
pub(super) const FAILED: &str = "FAILED: ";

/// The lines of a case; any thread may add to them.
#[derive(Debug)]
pub(super) struct Timeline {
    begun: Instant,
    file: Mutex<File>,
}

impl Timeline {
    pub(super) fn begin(case: &Path) -> Result<Self> {
        let path = case.join(FILE);
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Self {
            begun: Instant::now(),
            file: Mutex::new(file.with_context(|| path.display().to_string())?),
        })
    }

    /// Adds a line, and shows it.
    pub(super) fn say(&self, what: impl std::fmt::Display) {
        let line = format!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
        println!("{line}");
        if let Ok(mut file) = self.file.lock() {
            // What cannot be kept was shown.
            let _ = writeln!(file, "{line}");
        }
    }
}
