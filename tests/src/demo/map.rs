// SPDX-License-Identifier: Apache-2.0
//! The processes of a VM and what confines them, from /proc.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::context::Context;
use crate::vm::Vm;

/// The namespaces there are.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

/// One process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) role: String,
    pub(super) pid: i32,
}

/// The processes of the VM, as `bulkhead inspect` lists them.
pub(super) fn processes(context: &Context, vm: &Vm) -> Result<Vec<Process>> {
    let text = quietly(context, &["inspect", vm.name(), "--json"])?;
    let info: Value = serde_json::from_str(&text).context("inspect --json")?;
    let listed = info["processes"].as_array().context("no processes")?;
    listed
        .iter()
        .map(|process| {
            Ok(Process {
                role: process["role"].as_str().context("no role")?.to_owned(),
                pid: process["pid"]
                    .as_i64()
                    .and_then(|pid| pid.try_into().ok())
                    .context("no pid")?,
            })
        })
        .collect()
}

/// Runs `bulkhead`, which must succeed, and returns what it says.
pub(super) fn quietly(context: &Context, args: &[&str]) -> Result<String> {
    let output = context.bulkhead().args(args).output().context("bulkhead")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "bulkhead {}: {said}",
        args.join(" ")
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Prints a table of them.
pub(super) fn print(context: &Context, vm: &Vm) -> Result<()> {
    println!(
        "{:<12} {:>6} {:>11} {:>10} {:>5} {:>8} {:>4}  root",
        "process", "pid", "uid", "namespaces", "caps", "seccomp", "fds"
    );
    for process in processes(context, vm)? {
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
