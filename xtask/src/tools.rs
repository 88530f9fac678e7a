// SPDX-License-Identifier: Apache-2.0
//! Cargo's helpers that tests use: taken as installed, else built once into the cache.

use std::path::PathBuf;

use anyhow::Result;

use crate::command::{find, quiet};
use crate::{cache, compile, progress};

/// A helper from crates.io.
pub(crate) struct Tool {
    name: &'static str,
    version: &'static str,
}

/// Runs unit tests.
pub(crate) const NEXTEST: Tool = Tool {
    name: "cargo-nextest",
    version: "0.9.143",
};
/// Checks licences, bans and sources of dependencies.
pub(crate) const DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
};
/// Changes code to see whether a test notices.
pub(crate) const MUTANTS: Tool = Tool {
    name: "cargo-mutants",
    version: "27.1.0",
};

impl Tool {
    /// Where it is; builds it when it is nowhere.
    pub(crate) fn ready(&self) -> Result<PathBuf> {
        if let Some(path) = find(self.name) {
            return Ok(path);
        }
        let dir = cache::entry(self.name, &[self.version], |dir| {
            let what = format!("installing {} {} into the cache", self.name, self.version);
            progress::step(&format!("{what} (a few minutes)"), || {
                let mut install = compile::cargo()?;
                // Away from the workspace, whose configuration is not for it.
                install.current_dir(dir);
                install
                    .args(["install", "--quiet", "--locked", "--root"])
                    .arg(dir);
                install.arg(format!("{}@{}", self.name, self.version));
                // A target directory of its own: it must neither reuse nor fill ours.
                quiet(install.env("CARGO_TARGET_DIR", dir.join("target")))?;
                std::fs::remove_dir_all(dir.join("target"))?;
                Ok(())
            })
        })?;
        Ok(dir.join("bin").join(self.name))
    }
}
