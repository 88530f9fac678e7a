// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask seccomp`: how many system calls each filter allows, and whether that is too many or
//! any of them is one that no confined process has.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use host::seccomp::{Platform, concerns};
use serde_json::Value;

use crate::compile;

mod trace;
mod unused;

pub(crate) use unused::run as list_unused;

/// What programs are built for.
const PLATFORMS: [Platform<'_>; 5] = [
    platform("x86_64", "musl"),
    platform("x86_64", "gnu"),
    platform("aarch64", "musl"),
    platform("aarch64", "gnu"),
    platform("riscv64", "gnu"),
];

/// The crates that have a table.
const TABLES: [&str; 5] = [
    "supervisor",
    "vmm",
    "blk-backend",
    "net-backend",
    "input-backend",
];

/// Filters: crate, name, the most calls it may allow.
const FILTERS: &[(&str, &str, usize)] = &[
    ("vmm", "vcpu", 14),
    ("vmm", "device", 16),
    ("vmm", "intx", 14),
    ("vmm", "state", 14),
    ("vmm", "main", 20),
    ("blk-backend", "uring", 26),
    ("blk-backend", "threads", 26),
    ("net-backend", "net", 25),
    ("input-backend", "input", 22),
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
    let judged = |platform| FILTERS.iter().map(move |filter| judge(*filter, platform));
    PLATFORMS.into_iter().flat_map(judged).collect()
}

const fn platform<'a>(arch: &'a str, libc: &'a str) -> Platform<'a> {
    Platform { arch, libc }
}

/// The text of a crate's table.
fn table(package: &str) -> Result<String> {
    let path = compile::root()?.join(package).join("seccomp.json");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn judge(
    (package, filter, most): (&str, &str, usize),
    platform: Platform<'_>,
) -> Result<(String, bool)> {
    let table: Value =
        serde_json::from_str(&table(package)?).with_context(|| package.to_owned())?;
    let rules = table[filter]["filter"].as_array();
    let rules = rules.with_context(|| format!("{package} has no filter {filter}"))?;
    let rules: Vec<&Value> = rules
        .iter()
        .filter(|rule| concerns(rule, platform))
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
        "{word} seccomp {package} {filter}, {} {}: {} system calls of at most {most}, {} rules",
        platform.arch,
        platform.libc,
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
    use host::seccomp::compile::{CompileError, to_source};
    use serde_json::json;

    #[test]
    fn every_filter_is_short_and_opens_nothing() {
        for (line, good) in filters().unwrap() {
            assert!(good, "{line}");
        }
    }

    #[test]
    fn every_table_compiles_for_every_platform() {
        for platform in PLATFORMS {
            for package in TABLES {
                let source = to_source(&table(package).unwrap(), platform, true);
                assert!(source.is_ok(), "{package}, {platform:?}: {source:?}");
            }
        }
    }

    #[test]
    fn call_that_an_architecture_lacks_compiles_only_where_it_is() {
        let table = |arch| {
            let rules = json!([
                {"syscall": "poll", "arch": arch, "comment": "here"},
                {"syscall": "read", "comment": "everywhere"},
            ]);
            json!({"some": {"filter": rules}}).to_string()
        };
        let arm = platform("aarch64", "musl");
        let calls = |arch| to_source(&table(arch), arm, false);

        assert!(calls("x86_64").unwrap().contains("calls: 1,"));
        assert!(matches!(calls("aarch64"), Err(CompileError::Compile(_))));
        assert!(matches!(calls("vax"), Err(CompileError::Shape(..))));
    }
}
