// SPDX-License-Identifier: Apache-2.0
//! Where a VM runs: each vCPU and process on its processors, over restarts, reboots and upgrades; the
//! guest's memory from its node; weights beside other VMs. What the host lacks is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Error, Result, ensure};
use host::affinity;
use ipc::cpu_set::CpuSet;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Case;
use super::bad_input::{ERROR, USAGE, complains};
use super::limits::settled;
use crate::context::{Context, Skip, need_root};
use crate::inspect;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{PATIENCE, Vm};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("placement_on_processors_outlives_every_process", processors),
        Case::native("placement_that_cannot_be_had_is_refused", refused),
        Case::native("placement_that_a_cpuset_forbids_is_refused", forbidden),
        Case::native("placement_on_a_node_holds_after_a_reboot", node),
        Case::native("placement_weights_are_those_of_the_groups", weights),
    ]
}

/// What the kernel says of a thread under this key.
fn status(dir: &Path, key: &str) -> Result<String> {
    let text = fs::read_to_string(dir.join("status"))?;
    let found = text.lines().find_map(|line| line.strip_prefix(key));
    Ok(found.context("no such line")?.trim().to_owned())
}

/// The processors of each thread of a process, by the thread's name.
fn threads(pid: Pid) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let dir = task?.path();
        let name = fs::read_to_string(dir.join("comm"))?.trim().to_owned();
        found.insert(name, status(&dir, "Cpus_allowed_list:")?);
    }
    Ok(found)
}

/// Has this case and what it starts run on the first two processors, as if there were no others.
fn keep_to_two_processors() -> Result<()> {
    let both = "0-1".parse::<CpuSet>().map_err(Error::msg)?;
    if affinity::place(&both).is_err() || affinity::current()? != both {
        return Err(Skip("it may not run on processors 0 and 1".into()).into());
    }
    Ok(())
}

/// Where the VM's processes and threads run must be where they were put.
fn check(context: &Context, vm: &Vm) -> Result<()> {
    let of = |role: &str| threads(inspect::process(context, vm.name(), role)?);
    let vmm = of("vmm")?;
    for (thread, cpus) in [("vmm", "0"), ("vcpu0", "0"), ("vcpu1", "1")] {
        let found = vmm.get(thread).map(String::as_str);
        ensure!(found == Some(cpus), "{thread} runs on {found:?} of {vmm:?}");
    }
    let backend = of("blk disk0")?;
    ensure!(backend.values().all(|cpus| cpus == "1"), "{backend:?}");
    // It has no others, and does not run where the supervisor does.
    let second = of("blk disk1")?;
    ensure!(second.values().all(|cpus| cpus == "0-1"), "{second:?}");
    let supervisor = of("supervisor")?;
    ensure!(
        supervisor.values().all(|cpus| cpus == "1"),
        "{supervisor:?}"
    );
    Ok(())
}

fn processors(context: &Context) -> Result<()> {
    keep_to_two_processors()?;
    let kernel = NoOsKernel::new().say("up\n").echo_until_q().reset();
    let mut builder = context.vm("placed").boots_no_os(&kernel).cpus(2);
    for name in ["a", "b"] {
        let image = context.sparse_file(name, 1 << 20)?;
        builder = builder.arg("--disk", format!("path={}", image.display()));
    }
    for affinity in [
        "of=supervisor,cpus=1",
        "of=vm,cpus=0,,1",
        "of=vmm,cpus=0",
        "of=vcpu1,cpus=1",
        "of=disk0,cpus=1",
    ] {
        builder = builder.arg("--affinity", affinity);
    }
    let mut vm = builder.start()?;
    vm.wait_for("up\n", PATIENCE)?;
    check(context, &vm)?;

    kill(
        inspect::process(context, vm.name(), "blk disk0")?,
        Signal::SIGKILL,
    )?;
    context.run_ok(&["restart", vm.name(), "disk0", "--wait"])?;
    context.run_ok(&["upgrade", vm.name(), "disk1"])?;
    check(context, &vm)?;

    vm.type_text("q")?;
    vm.wait_for("up\n", PATIENCE)?;
    check(context, &vm)?;
    let shown = context.run_ok(&["inspect", vm.name()])?;
    ensure!(shown.contains("of=vcpu1,cpus=1"), "inspect: {shown}");
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)
}

fn refused(context: &Context) -> Result<()> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
    let online = online.trim();
    let nodes = fs::read_to_string("/sys/devices/system/node/has_memory");
    let nodes = nodes.unwrap_or_else(|_| "has no nodes".into());
    let kernel = NoOsKernel::new().spin();
    for (flag, value, status, words) in [
        (
            "--affinity",
            "of=vm,cpus=1000",
            ERROR,
            ["affinity.cpus", "\"1000\"", online],
        ),
        (
            "--affinity",
            "of=vcpu1,cpus=0",
            ERROR,
            ["affinity.of", "\"vcpu1\"", "vcpu0 to vcpu0"],
        ),
        (
            "--affinity",
            "of=nobody,cpus=0",
            ERROR,
            ["affinity.of", "\"nobody\"", "vcpuN"],
        ),
        (
            "--affinity",
            "of=vm,cpus=1-0",
            USAGE,
            ["--affinity", "1-0", "ends before it begins"],
        ),
        (
            "--host-numa-node",
            "77",
            ERROR,
            ["host-numa-node", "\"77\"", nodes.trim()],
        ),
        (
            "--limits",
            "of=vm,cpu-weight=10001",
            ERROR,
            ["limits.cpu-weight", "\"10001\"", "1 to"],
        ),
    ] {
        let builder = context.vm("bad").boots_no_os(&kernel).arg(flag, value);
        complains(&mut builder.command()?, status, &words)?;
    }
    Ok(())
}

/// A group of processors, which goes with this.
struct CpuGroup(std::path::PathBuf);

impl CpuGroup {
    fn new(context: &Context) -> Result<Self> {
        let top = Path::new("/sys/fs/cgroup/cpuset");
        let Ok(mems) = fs::read_to_string(top.join("cpuset.mems")) else {
            return Err(Skip("this host has no cpuset of version 1".into()).into());
        };
        let dir = top.join(context.name_of("cpus"));
        fs::create_dir(&dir)?;
        let group = Self(dir);
        fs::write(group.0.join("cpuset.mems"), mems.trim())?;
        fs::write(group.0.join("cpuset.cpus"), "0")?;
        Ok(group)
    }
}

impl Drop for CpuGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn forbidden(context: &Context) -> Result<()> {
    need_root()?;
    keep_to_two_processors()?;
    let group = CpuGroup::new(context)?;
    let kernel = NoOsKernel::new().spin();
    let builder = context.vm("bad").boots_no_os(&kernel);
    let inner = builder.arg("--affinity", "of=vmm,cpus=0-1").command()?;
    // A shell joins the group, and becomes bulkhead.
    let mut command = Command::new("sh");
    context.prepare(&mut command);
    let join = format!(
        "echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"",
        group.0.display()
    );
    command
        .args(["-c", &join])
        .arg(inner.get_program())
        .args(inner.get_args());
    complains(
        &mut command,
        ERROR,
        &["affinity.cpus", "\"0-1\"", "not allow 1: it allows 0"],
    )
}

/// The policy of the guest's memory in the vmm, as the kernel knows it.
fn policy(context: &Context, vm: &Vm) -> Result<String> {
    let vmm = inspect::process(context, vm.name(), "vmm")?;
    let maps = fs::read_to_string(format!("/proc/{vmm}/numa_maps"))?;
    let line = maps.lines().find(|line| line.contains("guest-ram"));
    let line = line.context("no guest memory")?;
    Ok(line.split(' ').nth(1).unwrap_or_default().to_owned())
}

fn node(context: &Context) -> Result<()> {
    need_root()?;
    if !Path::new("/proc/self/numa_maps").exists() {
        return Err(Skip("this kernel knows no nodes".into()).into());
    }
    let kernel = NoOsKernel::new().say("up\n").echo_until_q().reset();
    let builder = context.vm("node").boots_no_os(&kernel);
    let mut vm = builder.arg("--host-numa-node", "0").start()?;
    vm.wait_for("up\n", PATIENCE)?;
    let first = policy(context, &vm)?;
    // The supervisor makes the memory of the next vmm.
    vm.type_text("q")?;
    vm.wait_for("up\n", PATIENCE)?;
    let second = policy(context, &vm)?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)?;
    for policy in [first, second] {
        ensure!(policy == "bind:0", "the policy is {policy}");
    }
    Ok(())
}

fn weights(context: &Context) -> Result<()> {
    need_root()?;
    let kernel = NoOsKernel::new().say("up\n").spin();
    let mut vm = context
        .vm("weighed")
        .boots_no_os(&kernel)
        .arg("--limits", "of=vm,cpu-weight=50")
        .arg("--limits", "of=vmm,cpu-weight=1000")
        .start()?;
    vm.wait_for("up\n", PATIENCE)?;
    let pid = i64::from(inspect::process(context, vm.name(), "vmm")?.as_raw());
    let (leaf, is_old) = settled(pid, "cpu", &["vmm"])?;
    let whole = leaf.parent().context("no group above")?.to_owned();
    let (file, of_vm, of_vmm) = match is_old {
        true => ("cpu.shares", "512", "10240"),
        false => ("cpu.weight", "50", "1000"),
    };
    for (dir, wanted) in [(whole, of_vm), (leaf, of_vmm)] {
        let found = fs::read_to_string(dir.join(file))?;
        ensure!(found.trim() == wanted, "{}: {found}", dir.display());
    }
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)
}
