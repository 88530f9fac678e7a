// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask seccomp`: how many system calls each filter allows, and whether that is too many or
//! any of them is one that no confined process has.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host::seccomp::concerns;
use serde_json::Value;

use crate::compile;
use crate::target::Libc;

mod trace;
mod unused;

pub(crate) use unused::run as list_unused;

/// The tables: crate, filter, the most calls it may allow.
const FILTERS: &[(&str, &str, usize)] = &[
    ("vmm", "vcpu", 14),
    ("vmm", "device", 16),
    ("vmm", "main", 20),
    ("blk-backend", "uring", 26),
    ("blk-backend", "threads", 26),
    ("net-backend", "net", 25),
];
/// What would let a process reach for something that it was not given.
const NEVER: &[&str] = &[
    "open",
    "openat",
    "openat2",
    "socket",
    "connect",
    "bind",
    "accept",
    "accept4",
    "execve",
    "execveat",
    "clone",
    "clone3",
    "fork",
    "vfork",
    "ptrace",
    "mount",
    "setns",
    "unshare",
    "io_uring_setup",
    "io_uring_register",
    "memfd_create",
    "pidfd_getfd",
];

/// Prints all of them.
pub(crate) fn run() -> Result<ExitCode> {
    let mut failed = false;
    for (line, good) in filters()? {
        println!("{line}");
        failed |= !good;
    }
    Ok(match failed {
        false => ExitCode::SUCCESS,
        true => ExitCode::FAILURE,
    })
}

/// A line for each filter, and whether it is as it has to be.
pub(crate) fn filters() -> Result<Vec<(String, bool)>> {
    let judged = |libc| FILTERS.iter().map(move |filter| judge(*filter, libc));
    [Libc::Musl, Libc::Glibc]
        .into_iter()
        .flat_map(judged)
        .collect()
}

fn judge((package, filter, most): (&str, &str, usize), libc: Libc) -> Result<(String, bool)> {
    let path = compile::root()?.join(package).join("seccomp.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let table: Value = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let rules = table[filter]["filter"].as_array();
    let rules = rules.with_context(|| format!("{package} has no filter {filter}"))?;
    let rules: Vec<&Value> = rules
        .iter()
        .filter(|rule| concerns(rule, libc.name()))
        .collect();
    let calls: BTreeSet<&str> = rules
        .iter()
        .filter_map(|rule| rule["syscall"].as_str())
        .collect();
    let forbidden: Vec<&str> = NEVER
        .iter()
        .copied()
        .filter(|call| calls.contains(call))
        .collect();
    let good = calls.len() <= most && !calls.is_empty() && forbidden.is_empty();
    let word = if good { "ok      " } else { "FAILED  " };
    let mut line = format!(
        "{word} seccomp {package} {filter}, {}: {} system calls of at most {most}, {} rules",
        libc.name(),
        calls.len(),
        rules.len()
    );
    if !forbidden.is_empty() {
        line.push_str(&format!(", and {} among them", forbidden.join(", ")));
    }
    Ok((line, good))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_is_short_and_opens_nothing() {
        for (line, good) in filters().unwrap() {
            assert!(good, "{line}");
        }
    }
}
