// SPDX-License-Identifier: Apache-2.0
//! What this process costs: both peers of every attack live in it, so that what it keeps is more than
//! what the attacked one keeps.

use anyhow::{Context, Result};

/// Anonymous memory of this process that is resident, in KiB.
pub(crate) fn anonymous_kib() -> Result<u64> {
    anonymous_kib_of(std::process::id())
}

/// Anonymous memory of a process that is resident, in KiB.
pub(crate) fn anonymous_kib_of(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).context(path)?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.context("no RssAnon")?.parse().context("RssAnon")
}

/// The number of open descriptors.
pub(crate) fn descriptors() -> Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")
        .context("/proc/self/fd")?
        .count())
}
