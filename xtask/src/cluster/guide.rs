// SPDX-License-Identifier: Apache-2.0
//! What docs/cluster.md tells its reader to write: the case does so, word for word.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The page.
const PAGE: &str = include_str!("../../../docs/cluster.md");

/// The block of this kind, the first: from the line "```KIND" to the line "```".
pub(super) fn block(kind: &str) -> Result<&'static str> {
    let (_, rest) = PAGE
        .split_once(&format!("\n```{kind}\n"))
        .with_context(|| format!("docs/cluster.md has no block {kind}"))?;
    let (block, _) = rest
        .split_once("\n```\n")
        .context("a block without an end")?;
    Ok(block)
}

/// Writes a block to a file.
pub(super) fn write(kind: &str, path: &Path) -> Result<()> {
    fs::write(path, format!("{}\n", block(kind)?)).with_context(|| path.display().to_string())
}
