// SPDX-License-Identifier: Apache-2.0
//! The machine that is measured on: its file, its processors, what else it does.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use loadgen::random::Random;

/// Makes the file and fills it with noise, unless it is there.
pub(crate) fn prepare(path: &Path, size_mib: u64) -> Result<()> {
    let about = || format!("{}", path.display());
    if path.metadata().is_ok_and(|m| m.len() == size_mib << 20) {
        return Ok(());
    }
    let mut file = File::create(path).with_context(about)?;
    let mut random = Random::new(1);
    let mut chunk = vec![0; 1 << 20];
    for _ in 0..size_mib {
        for word in chunk.chunks_exact_mut(8) {
            word.copy_from_slice(&random.number().to_le_bytes());
        }
        file.write_all(&chunk).with_context(about)?;
    }
    file.sync_all().with_context(about)
}

/// Reads the whole file into the page cache.
pub(crate) fn warm(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; 1 << 20];
    while file.read(&mut chunk)? > 0 {}
    Ok(())
}

/// What it is, and whether it is busy with something else.
pub(crate) fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    let cpus = available_parallelism().map_or(1, usize::from);
    let busy = load.parse::<f64>().is_ok_and(|load| load > 0.5);
    let note = if busy {
        " (not idle: compare ratios only)"
    } else {
        ""
    };
    format!(
        "Linux {}, {cpus} processors, load {load}{note}",
        release.trim()
    )
}

/// The memory of a process that is its own: without what it shares with the guest.
pub(crate) fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    field("RssAnon:") + field("RssFile:")
}
