// SPDX-License-Identifier: Apache-2.0
//! What each process of a running VM may do, as /proc tells it, against a record that is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::context::{Context, Skip, need_root};
use crate::tiny_kernel::TinyKernel;
use crate::vm::{PATIENCE, Vm};

const NATIVE: &str = include_str!("audit/native.txt");
/// The namespaces that no two processes of a VM share with anybody.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// How long it may take until every process is in its control group.
const SETTLING: Duration = Duration::from_secs(5);

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native(
            "audit_of_each_process_equals_the_record_for_this_machine",
            |context| audit(context, NATIVE),
        ),
        Case::native(
            "two_vms_side_by_side_share_no_user_and_no_namespace",
            side_by_side,
        ),
    ]
}

fn start(context: &Context, name: &str) -> Result<Vm> {
    let image = context.sparse_file(&format!("{name}.img"), 16 << 20)?;
    let threads = context.sparse_file(&format!("{name}-threads.img"), 16 << 20)?;
    let mut vm = context
        .vm(name)
        .boots_tiny(&TinyKernel::new().say("hello\n").spin())
        .arg("--disk", format!("path={}", image.display()))
        .arg(
            "--disk",
            format!("path={},engine=threads", threads.display()),
        )
        .start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    Ok(vm)
}

/// The processes of a VM: role and number.
fn processes(context: &Context, vm: &Vm) -> Result<Vec<(String, u64)>> {
    let info: Value = serde_json::from_str(&context.run_ok(&["inspect", vm.name(), "--json"])?)?;
    let listed = info["processes"].as_array().context("no processes")?;
    let one = |process: &Value| {
        let role = process["role"].as_str()?.to_string();
        Some((role, process["pid"].as_u64()?))
    };
    listed
        .iter()
        .map(|p| one(p).context("an odd process"))
        .collect()
}

fn audit(context: &Context, golden: &str) -> Result<()> {
    need_root()?;
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        let why = "the record is of a host with control groups of version 1";
        return Err(Skip(why.to_owned()).into());
    }
    let mut vm = start(context, "audited")?;
    let processes = processes(context, &vm)?;
    let begun = Instant::now();

    let mut found = record(&processes)?;
    while found != golden && begun.elapsed() < SETTLING {
        std::thread::sleep(Duration::from_millis(50));
        found = record(&processes)?;
    }

    vm.signal(nix::sys::signal::Signal::SIGHUP)?;
    vm.wait_exit(PATIENCE)?;
    println!("--- found\n{found}--- kept\n{golden}---");
    for (found, kept) in found.lines().zip(golden.lines()) {
        ensure!(found == kept, "{found:?} is not {kept:?}");
    }
    ensure!(
        found == golden,
        "there is more, or less, than the record says"
    );
    Ok(())
}

/// What is to be the same at every run.
fn record(processes: &[(String, u64)]) -> Result<String> {
    let namespaces = |pid: u64| -> Result<BTreeMap<&str, String>> {
        let mut all = BTreeMap::new();
        for kind in NAMESPACES {
            let link = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
            all.insert(kind, link.display().to_string());
        }
        Ok(all)
    };
    let all: Vec<_> = processes
        .iter()
        .map(|(_, pid)| namespaces(*pid))
        .collect::<Result<_>>()?;
    let (_, supervisor) = processes.get(1).context("no supervisor")?;
    let first_user = user(*supervisor)?;
    let mut text = String::new();
    for ((role, pid), mine) in processes.iter().zip(&all).skip(1) {
        let shared = |kind: &&str| {
            all.iter()
                .filter(|theirs| theirs[kind] == mine[kind])
                .count()
                > 1
        };
        let shared: Vec<_> = NAMESPACES.into_iter().filter(shared).collect();
        writeln!(text, "{role}")?;
        writeln!(
            text,
            "  user          first + {}",
            user(*pid)?.wrapping_sub(first_user)
        )?;
        writeln!(text, "  namespaces    shared: {shared:?}")?;
        for line in status(*pid)? {
            writeln!(text, "  {line}")?;
        }
        writeln!(text, "  dumpable      {}", dumpable(*pid)?)?;
        let environment = fs::read(format!("/proc/{pid}/environ"))?;
        let environment = environment.iter().filter(|byte| **byte != 0).count();
        writeln!(text, "  environment   {environment} bytes")?;
        writeln!(text, "  root          {}", root(*pid)?)?;
        writeln!(text, "  limits        {}", limits(*pid)?)?;
        writeln!(
            text,
            "  badness       {}",
            read(*pid, "oom_score_adj")?.trim()
        )?;
        writeln!(text, "  cgroups       {}", cgroups(*pid)?)?;
        writeln!(text, "  descriptors   {}", descriptors(*pid)?)?;
    }
    Ok(text)
}

fn read(pid: u64, file: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| format!("/proc/{pid}/{file}"))
}

/// The one user and group that a process is; it has no other.
fn user(pid: u64) -> Result<u32> {
    let status = read(pid, "status")?;
    let mut numbers = BTreeSet::new();
    for field in ["Uid:", "Gid:", "Groups:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.with_context(|| format!("no {field}"))?;
        for number in line.split_whitespace() {
            numbers.insert(number.parse::<u32>()?);
        }
    }
    ensure!(
        numbers.len() == 1,
        "process {pid} is more than one user: {numbers:?}"
    );
    numbers.first().copied().context("no user")
}

fn status(pid: u64) -> Result<Vec<String>> {
    const FIELDS: [&str; 8] = [
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
    ];
    let status = read(pid, "status")?;
    let line = |field: &str| {
        let begin = format!("{field}:");
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(begin.as_str()))?;
        Some(
            format!("{field:<13} {}", value.trim())
                .trim_end()
                .to_string(),
        )
    };
    let shorten = |line: String| line.replace("Seccomp_filters", "Filters      ");
    Ok(FIELDS
        .iter()
        .filter_map(|field| line(field))
        .map(shorten)
        .collect())
}

/// The kernel gives what belongs to a process that may be looked at to its user, and everything
/// else to root.
fn dumpable(pid: u64) -> Result<&'static str> {
    let owner = fs::metadata(format!("/proc/{pid}/environ"))?.uid();
    Ok(if owner == user(pid)? { "yes" } else { "no" })
}

fn root(pid: u64) -> Result<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/root/"))?.count();
    let mounts = read(pid, "mountinfo")?;
    let options = |line: &str| line.split(' ').nth(5).unwrap_or("?").to_string();
    let mounts: Vec<_> = mounts.lines().map(options).collect();
    Ok(format!("{entries} entries, mounts {mounts:?}"))
}

fn limits(pid: u64) -> Result<String> {
    let limits = read(pid, "limits")?;
    let one = |name: &str| {
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or("");
        let both: Vec<_> = line.split_whitespace().take(2).collect();
        both.join("/")
    };
    let (core, files) = (one("Max core file size"), one("Max open files"));
    Ok(format!(
        "core {core}, descriptors {files}, file size {}",
        one("Max file size")
    ))
}

/// The last part of its group in each hierarchy that has one of ours; `vm` for the VM's own.
fn cgroups(pid: u64) -> Result<String> {
    let mut groups = BTreeSet::new();
    for line in read(pid, "cgroup")?.lines() {
        let (hierarchy, path) = line.split_once(":/").context("an odd cgroup")?;
        let names = hierarchy.split_once(':').map_or("", |(_, names)| names);
        if let Some((_, below)) = path.split_once("bulkhead/") {
            let leaf = below.split_once('/').map_or("vm", |(_, leaf)| leaf);
            groups.insert(format!(
                "{}={leaf}",
                if names.is_empty() { "v2" } else { names }
            ));
        }
    }
    Ok(groups.into_iter().collect::<Vec<_>>().join(" "))
}

/// What its descriptors lead to, and how many to each.
fn descriptors(pid: u64) -> Result<String> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.display().to_string();
        let target = target.trim_end_matches(" (deleted)");
        let kind = match target.rsplit_once('/') {
            Some((_, "")) => "procfs".to_string(),
            Some((_, name)) => name.replace(':', "-"),
            // `socket:[1234]`, but `anon_inode:[eventfd]` or `anon_inode:kvm-vm`.
            None => match target.strip_prefix("anon_inode:") {
                Some(name) => name.replace(['[', ']'], ""),
                None => target.split(':').next().unwrap_or(target).to_string(),
            },
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let each = kinds.iter().map(|(kind, count)| format!("{kind}*{count}"));
    Ok(each.collect::<Vec<_>>().join(" "))
}

fn side_by_side(context: &Context) -> Result<()> {
    need_root()?;
    let (mut a, mut b) = (start(context, "tenant-a")?, start(context, "tenant-b")?);
    let (of_a, of_b) = (processes(context, &a)?, processes(context, &b)?);

    let seen = |all: &[(String, u64)]| -> Result<BTreeSet<String>> {
        let mut seen = BTreeSet::new();
        for (_, pid) in all.iter().skip(1) {
            seen.insert(format!("user {}", user(*pid)?));
            for kind in NAMESPACES {
                let link = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
                seen.insert(link.display().to_string());
            }
        }
        Ok(seen)
    };
    let (seen_a, seen_b) = (seen(&of_a)?, seen(&of_b)?);

    // From where a process of one stands: its user, its pid namespace, no capability.
    let (_, vmm) = of_a.get(2).context("no vmm")?;
    let (_, other) = of_b.get(2).context("no vmm")?;
    let as_vmm = |pid: &str| {
        let user = user(*vmm)?.to_string();
        let mut command = std::process::Command::new("nsenter");
        command.args([
            "--pid",
            "--target",
            &vmm.to_string(),
            "setpriv",
            "--reuid",
            &user,
        ]);
        command.args(["--regid", &user, "--clear-groups", "--bounding-set=-all"]);
        command.args(["sh", "-c", "kill -0 $0", pid]);
        anyhow::Ok(command.status()?.success())
    };
    let reaches_itself = as_vmm("1")?;
    let reaches_other = as_vmm(&other.to_string())?;

    for vm in [&mut a, &mut b] {
        vm.signal(nix::sys::signal::Signal::SIGHUP)?;
        vm.wait_exit(PATIENCE)?;
    }
    ensure!(seen_a.is_disjoint(&seen_b), "{seen_a:?} and {seen_b:?}");
    ensure!(seen_a.len() > NAMESPACES.len(), "hardly anything was seen");
    ensure!(
        reaches_itself,
        "a process of the same VM and user cannot be signalled"
    );
    ensure!(!reaches_other, "the other VM's vmm can be signalled");
    Ok(())
}
