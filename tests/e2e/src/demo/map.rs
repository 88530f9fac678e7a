// SPDX-License-Identifier: Apache-2.0
//! The processes of a VM and what confines them, from /proc.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::context::Context;
use crate::inspect::{Process, processes};
use crate::vm::Vm;

/// The namespaces there are.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// Prints a table of them.
pub(super) fn print(context: &Context, vm: &Vm) -> Result<()> {
    println!(
        "{:<12} {:>6} {:>11} {:>10} {:>5} {:>8} {:>4}  root",
        "process", "pid", "uid", "namespaces", "caps", "seccomp", "fds"
    );
    for process in processes(context, vm.name())? {
        println!("{}", line(&process)?);
    }
    println!();
    Ok(())
}

fn line(process: &Process) -> Result<String> {
    let proc = format!("/proc/{}", process.pid);
    let status = fs::read_to_string(format!("{proc}/status")).context("status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next())
            .unwrap_or("?")
            .to_owned()
    };
    let own = namespaces(&proc)?
        .difference(&namespaces("/proc/self")?)
        .count();
    let caps = u64::from_str_radix(&field("CapEff:"), 16).map_or(0, u64::count_ones);
    let filters = match field("Seccomp:").as_str() {
        "2" => "filter",
        _ => "none",
    };
    let fds = fs::read_dir(format!("{proc}/fd"))?.count();
    let root = fs::read_dir(format!("{proc}/root"))?.count();
    let root = if root == 0 { "empty" } else { "the host's" };
    ensure!(
        process.role == "jailer" || filters == "filter",
        "{} has no filter",
        process.role
    );
    Ok(format!(
        "{:<12} {:>6} {:>11} {:>10} {caps:>5} {filters:>8} {fds:>4}  {root}",
        process.role,
        process.pid,
        field("Uid:"),
        format!("{own} own"),
    ))
}

fn namespaces(proc: &str) -> Result<BTreeSet<String>> {
    let link = |name: &&str| fs::read_link(format!("{proc}/ns/{name}"));
    let links: Result<Vec<_>, _> = NAMESPACES.iter().map(link).collect();
    let links = links.context("namespaces")?;
    Ok(links
        .iter()
        .map(|path| path.display().to_string())
        .collect())
}
