// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask seccomp --unused`: runs the tests under strace and lists the rules of filters that no
//! call of theirs needed.
//!
//! Takes root and strace. Cases with stock guests are left out: what only those need is in [`KEPT`],
//! with whatever else is rare by nature.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};
use host::seccomp::{OWN, Platform};
use serde_json::Value;

use super::trace::{Call, STRACE, Trace};
use super::{TABLES, concerns};
use crate::arch::Arch;
use crate::progress;
use crate::scratch::Scratch;
use crate::{compile, packages, target};

/// Cases that trace processes themselves, or let others take their names.
const LEFT_OUT: [&str; 2] = ["jail_", "evil_backend"];
/// Crates whose process tests run a backend.
const CRATES: [&str; 3] = ["blk-backend", "net-backend", "input-backend"];

/// A guest with drivers, which cases in the lab have.
const STOCK_GUEST: &str = "a stock guest";
/// The supervisor's filter is inherited, and a backend may be replaced by one that was built elsewhere.
const GLIBC: &str = "a backend linked with glibc";

/// Rules that no test here needs: filter, call, and who needs it.
const KEPT: &[(&str, &str, &str)] = &[
    ("*", "exit_group", "a thread that panics"),
    (
        "*",
        "clock_gettime",
        "hosts whose clock the vDSO cannot read",
    ),
    (
        "*",
        "restart_syscall",
        "a process that is stopped and goes on",
    ),
    ("*", "brk", "malloc, when its heap grows"),
    ("*", "mmap", "malloc, for a large buffer"),
    ("*", "munmap", "malloc, for a large buffer"),
    ("*", "mremap", "malloc, for a large buffer that grows"),
    (
        "supervisor supervisor",
        "fstat",
        "C libraries newer than this one",
    ),
    ("supervisor supervisor", "newfstatat", GLIBC),
    ("supervisor supervisor", "readlink", GLIBC),
    ("supervisor supervisor", "set_robust_list", GLIBC),
    ("supervisor supervisor", "rseq", GLIBC),
    ("supervisor supervisor", "sched_getaffinity", GLIBC),
    ("supervisor supervisor", "epoll_wait", GLIBC),
    ("supervisor supervisor", "readv", STOCK_GUEST),
    ("supervisor supervisor", "writev", STOCK_GUEST),
    ("supervisor supervisor", "fallocate", STOCK_GUEST),
    ("supervisor supervisor", "getpid", "a VM that is paused"),
    ("supervisor supervisor", "tgkill", "a VM that is paused"),
    ("supervisor supervisor", "tkill", "a VM that is paused"),
    (
        "supervisor supervisor",
        "rt_sigreturn",
        "a VM that is paused",
    ),
    ("net-backend net", "writev", STOCK_GUEST),
    ("vmm device", "ioctl", STOCK_GUEST),
    ("vmm main", "preadv2", STOCK_GUEST),
    ("vmm main", "ioctl", STOCK_GUEST),
    ("vmm main", "getpid", "a VM that is paused"),
    ("vmm main", "tgkill", "a VM that is paused"),
    ("vmm main", "tkill", "a VM that is paused"),
    ("vmm main", "rt_sigprocmask", "a VM that is paused"),
    ("vmm vcpu", "ioctl", STOCK_GUEST),
    ("vmm vcpu", "poll", STOCK_GUEST),
    ("vmm vcpu", "rt_sigreturn", "a VM that is paused"),
];

/// What each rule was needed for, by filter.
type Used = BTreeMap<(String, usize), bool>;

pub(crate) fn run() -> Result<ExitCode> {
    packages::ensure(packages::STRACE)?;
    let binaries = compile::all(Arch::own())?;
    let runner = compile::runner(&binaries)?;
    let tables = tables()?;
    let mut used = Used::new();
    let scratch = Scratch::new("strace")?;
    for case in cases(&runner)? {
        let mut traced = Command::new("strace");
        let file = scratch.path().join("trace");
        traced
            .args(STRACE)
            .arg(&file)
            .arg(&runner)
            .args(["test", &case]);
        progress::step(&case, || observe(&mut traced, &file, &tables, &mut used))?;
    }
    for package in CRATES {
        for test in compile::process_tests(package)? {
            let file = scratch.path().join("trace");
            let mut traced = Command::new("strace");
            traced.args(STRACE).arg(&file).arg(&test);
            let step = format!("process tests of {package}");
            progress::step(&step, || observe(&mut traced, &file, &tables, &mut used))?;
        }
    }
    report(&tables, &used)
}

/// The native cases that are traced.
fn cases(runner: &Path) -> Result<Vec<String>> {
    let list = Command::new(runner)
        .args(["test", "--group", "native", "--list"])
        .output()?;
    ensure!(list.status.success(), "there is no list of cases");
    let names = String::from_utf8_lossy(&list.stdout).into_owned();
    let traced = |name: &&str| !LEFT_OUT.iter().any(|begin| name.starts_with(begin));
    Ok(names.lines().filter(traced).map(str::to_owned).collect())
}

/// The rules of each filter, by `package filter`.
fn tables() -> Result<BTreeMap<String, Vec<Value>>> {
    let mut tables = BTreeMap::new();
    let own = Platform {
        arch: OWN.arch,
        libc: target::libc(Arch::own())?.name(),
    };
    for package in TABLES {
        let table: Value = serde_json::from_str(&super::table(package)?)?;
        for (filter, content) in table.as_object().context("no table")? {
            let rules = content["filter"].as_array().context("no rules")?;
            let ours = rules.iter().filter(|rule| concerns(rule, own));
            tables.insert(format!("{package} {filter}"), ours.cloned().collect());
        }
    }
    Ok(tables)
}

/// Runs something under strace, which may fail because it is slow, and notes the rules that it needed.
fn observe(
    command: &mut Command,
    file: &Path,
    tables: &BTreeMap<String, Vec<Value>>,
    used: &mut Used,
) -> Result<()> {
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.status().context("strace")?;
    let mut trace = Trace::default();
    for line in BufReader::new(File::open(file)?).split(b'\n') {
        trace.line(&String::from_utf8_lossy(&line?));
    }
    let mut needed: BTreeSet<(String, &Call)> = BTreeSet::new();
    for process in trace.processes() {
        // The engine of threads has one of this name.
        let threads = process.calls.iter().any(|(comm, _)| comm == "disk");
        for (comm, call) in &process.calls {
            let filter = match process.name.as_str() {
                "vmm" if comm == "vmm" => "vmm main",
                "vmm" if comm.starts_with("vcpu") => "vmm vcpu",
                "vmm" if comm == "intx" => "vmm intx",
                "vmm" if comm == "state" => "vmm state",
                "vmm" => "vmm device",
                "blk-backend" if threads => "blk-backend threads",
                "blk-backend" => "blk-backend uring",
                "net-backend" => "net-backend net",
                "input-backend" => "input-backend input",
                _ => continue,
            };
            needed.insert((filter.to_owned(), call));
        }
    }
    let inherited = trace.inherited.iter();
    needed.extend(inherited.map(|call| ("supervisor supervisor".to_owned(), call)));
    for (filter, call) in needed {
        for (index, rule) in tables[&filter].iter().enumerate() {
            if allows(rule, call) {
                used.insert((filter.clone(), index), true);
            }
        }
    }
    Ok(())
}

/// Whether a rule is about this call; what is not known of its arguments is no obstacle.
fn allows(rule: &Value, call: &Call) -> bool {
    let conditions = rule["args"].as_array();
    let holds = |condition: &Value| {
        let index = condition["index"]
            .as_u64()
            .and_then(|i| usize::try_from(i).ok());
        let found = index.and_then(|index| call.args.get(index).copied().flatten());
        let (Some(found), Some(value)) = (found, condition["val"].as_u64()) else {
            return true;
        };
        let found = found & u64::from(u32::MAX);
        match (&condition["op"], condition["op"]["masked_eq"].as_u64()) {
            (_, Some(mask)) => found & mask == value,
            (op, _) if op == "eq" => found == value,
            (op, _) if op == "ge" => found >= value,
            (op, _) if op == "le" => found <= value,
            _ => true,
        }
    };
    rule["syscall"] == call.name.as_str() && conditions.into_iter().flatten().all(holds)
}

fn report(tables: &BTreeMap<String, Vec<Value>>, used: &Used) -> Result<ExitCode> {
    let mut superfluous = 0;
    for (filter, rules) in tables {
        let (mut seen, mut kept) = (0, 0);
        for (index, rule) in rules.iter().enumerate() {
            let call = rule["syscall"].as_str().unwrap_or_default();
            let reason = rule["comment"].as_str().unwrap_or_default();
            if used.contains_key(&(filter.clone(), index)) {
                seen += 1;
            } else if let Some((.., when)) = KEPT
                .iter()
                .find(|(whose, name, _)| (*whose == "*" || whose == filter) && *name == call)
            {
                kept += 1;
                println!("kept     {filter}: {call} ({reason}), for {when}");
            } else {
                superfluous += 1;
                println!("UNUSED   {filter}: {call} ({reason})");
            }
        }
        println!(
            "         {filter}: {seen} of {} rules used, {kept} kept",
            rules.len()
        );
    }
    Ok(match superfluous {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_about_their_calls_and_arguments() {
        let rule: Value = serde_json::from_str(
            r#"{"syscall": "readv", "args": [
                {"index": 0, "op": "ge", "val": 8}, {"index": 0, "op": "le", "val": 15}]}"#,
        )
        .unwrap();
        let call = |name: &str, first| Call {
            name: name.into(),
            args: vec![Some(first)],
        };
        assert!(allows(&rule, &call("readv", 9)));
        assert!(!allows(&rule, &call("readv", 16)));
        assert!(!allows(&rule, &call("writev", 9)));
    }
}
