// SPDX-License-Identifier: Apache-2.0
//! The machine that is measured on: its file, its processors, what else it does.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use loadgen::random::Random;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

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
        "Linux {}, {cpus} processors, load {load}{note}; driver on processor 0, backends on {}",
        release.trim(),
        backend_cpus()
    )
}

/// The processors of a backend: all but the driver's, if there are others.
pub(crate) fn backend_cpus() -> String {
    match available_parallelism().map_or(1, usize::from) {
        1 => "0".into(),
        cpus => format!("1-{}", cpus - 1),
    }
}

/// Keeps the calling thread, and those it starts, on processor 0 for as long as the result lives.
pub(crate) fn pin_driver() -> Option<Pinned> {
    let before = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let mut first = CpuSet::new();
    first.set(0).ok()?;
    sched_setaffinity(Pid::from_raw(0), &first).ok()?;
    Some(Pinned(before))
}

/// See [`pin_driver`].
pub(crate) struct Pinned(CpuSet);

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
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
