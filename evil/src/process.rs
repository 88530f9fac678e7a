// SPDX-License-Identifier: Apache-2.0
//! What this process costs: both peers of every attack live in it, so that what it keeps is more than
//! what the attacked one keeps.

use anyhow::{Context, Result};

/// Anonymous memory that is resident, in KiB.
pub(crate) fn anonymous_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
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
