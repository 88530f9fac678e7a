// SPDX-License-Identifier: Apache-2.0
//! A VM whose control groups are a manager's matter: it stays in the group that it was started in, or has
//! its groups below the one that is named; nothing of it is left there, and groups that will not do are
//! refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Case;
use super::bad_input::{ERROR, USAGE, complains};
use super::degraded_host::CGROUPS_READ_ONLY;
use super::kills::cgroups;
use super::limits::{group, need_version_2, settled, throttled};
use super::rootless;
use crate::context::{Context, need_root};
use crate::inspect;
use crate::mounts;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Vm, VmBuilder};

/// The controllers, as version 1 calls them.
const CONTROLLERS: [&str; 4] = ["cpu", "pids", "blkio", "memory"];
/// The lab's inner host has version 2 alone.
const VERSION_2: &str = "its case without the version in its name runs under version 2 there";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("cgroup_of_a_manager_is_inherited", inherited),
        Case::native("cgroup_of_a_manager_has_the_vm_below_it", below),
        Case::native("cgroup_that_cannot_be_had_is_refused", refused),
        Case::native(
            "cgroup_without_memory_left_ends_the_vm_which_says_so",
            filled,
        )
        .only_on_x86("its guest, which fills its memory, is written for x86_64"),
        Case::guest("cgroup_under_version_2_is_inherited", |context| {
            need_version_2()?;
            inherited(context)
        })
        .only_on_x86(VERSION_2),
        Case::guest("cgroup_under_version_2_has_the_vm_below_it", |context| {
            need_version_2()?;
            below(context)
        })
        .only_on_x86(VERSION_2),
        Case::guest(
            "cgroup_under_version_2_without_memory_left_ends_the_vm_which_says_so",
            |context| {
                need_version_2()?;
                filled(context)
            },
        )
        .only_on_x86(VERSION_2),
    ]
}

/// A manager's group, in every hierarchy.
struct Managed {
    name: String,
    /// Its directory, by controller.
    dirs: Vec<(&'static str, PathBuf)>,
    /// Where this process was before.
    before: Vec<PathBuf>,
    is_old: bool,
}

impl Managed {
    fn new(context: &Context) -> Result<Self> {
        let name = context.name_of("managed");
        let (mut dirs, mut before) = (Vec::new(), Vec::new());
        let mut is_old = false;
        let own = i64::from(Pid::this().as_raw());
        for controller in CONTROLLERS {
            let (was, of_version_1) = group(own, controller)?;
            let top = match of_version_1 {
                true => Path::new("/sys/fs/cgroup").join(controller),
                false => "/sys/fs/cgroup".into(),
            };
            is_old |= of_version_1;
            if !of_version_1 {
                let name = if controller == "blkio" {
                    "io"
                } else {
                    controller
                };
                fs::write(top.join("cgroup.subtree_control"), format!("+{name}"))?;
            }
            let dir = top.join(&name);
            match fs::create_dir(&dir) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => made.with_context(|| dir.display().to_string())?,
            }
            dirs.push((controller, dir));
            before.push(was);
        }
        Ok(Self {
            name,
            dirs,
            before,
            is_old,
        })
    }

    /// Moves this process, and what it starts from now on, into the group.
    fn enter(&self) -> Result<()> {
        self.dirs.iter().try_for_each(|(_, dir)| join(dir))
    }

    fn leave(&self) -> Result<()> {
        self.before.iter().try_for_each(|dir| join(dir))
    }

    fn dir(&self, wanted: &str) -> Result<&Path> {
        let found = self.dirs.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, dir)| dir.as_path()).context("no such group")
    }

    /// Whether no group is below it.
    fn expect_empty(&self) -> Result<()> {
        for (_, dir) in &self.dirs {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let is_dir = entry.file_type()?.is_dir();
                ensure!(!is_dir, "{} is left", entry.path().display());
            }
        }
        Ok(())
    }

    /// The kernel removes only groups that hold no process.
    fn remove(self) -> Result<()> {
        let begun = Instant::now();
        for (_, dir) in &self.dirs {
            while let Err(error) = fs::remove_dir(dir) {
                if error.kind() == std::io::ErrorKind::NotFound {
                    break;
                }
                let dir = dir.display();
                ensure!(begun.elapsed() < PATIENCE, "{dir}: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(())
    }
}

/// A case that fails leaves no group either.
impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.leave();
        for (_, dir) in &self.dirs {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Moves this process into a group.
fn join(group: &Path) -> Result<()> {
    fs::write(group.join("cgroup.procs"), "0").with_context(|| group.display().to_string())
}

fn spinning<'a>(context: &'a Context, name: &str, cgroup: &str) -> VmBuilder<'a> {
    let kernel = NoOsKernel::new().say("spinning\n").spin();
    let builder = context.vm(name).boots_no_os(&kernel);
    builder.arg("--cgroup", cgroup)
}

fn started(builder: VmBuilder<'_>) -> Result<Vm> {
    let mut vm = builder.start()?;
    vm.wait_for("spinning", PATIENCE)?;
    Ok(vm)
}

fn stop(context: &Context, mut vm: Vm) -> Result<()> {
    context.run_ok(&["stop", "--force", vm.name()])?;
    vm.wait_exit(PATIENCE).map(drop)
}

/// Waits until the processes of a group have asked for more of a processor than it may have.
fn wait_until_throttled(group: &Path) -> Result<()> {
    let begun = Instant::now();
    let before = throttled(group)?;
    while throttled(group)? == before {
        ensure!(begun.elapsed() < PATIENCE, "no process was held back");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A manager that holds its group to a fifth of a processor holds the VM to it.
fn hold_to_a_fifth(managed: &Managed) -> Result<()> {
    let (file, content) = match managed.is_old {
        true => ("cpu.cfs_quota_us", "20000"),
        false => ("cpu.max", "20000 100000"),
    };
    Ok(fs::write(managed.dir("cpu")?.join(file), content)?)
}

fn inherited(context: &Context) -> Result<()> {
    need_root()?;
    let managed = Managed::new(context)?;
    managed.enter()?;
    let builder = spinning(context, "born", "inherit");
    let vm = started(builder.arg("--limits", "of=vmm,pids=40"))?;
    managed.leave()?;
    hold_to_a_fifth(&managed)?;

    for process in inspect::processes(context, vm.name())? {
        for (controller, dir) in &managed.dirs {
            let (found, _) = group(process.pid.into(), controller)?;
            let role = &process.role;
            ensure!(found == *dir, "{role} is in {}", found.display());
        }
    }
    let made = cgroups(vm.name());
    ensure!(made.is_empty(), "groups were made: {made:?}");
    wait_until_throttled(managed.dir("cpu")?)?;
    let vmm = inspect::process(context, vm.name(), "vmm")?;
    let limits = fs::read_to_string(format!("/proc/{vmm}/limits"))?;
    let threads = limits
        .lines()
        .find(|line| line.starts_with("Max processes"));
    let threads = threads.context("no limit on processes")?;
    println!("{threads}");
    let numbers: Vec<_> = threads.split_whitespace().skip(2).take(2).collect();
    ensure!(numbers == ["40", "40"], "not 40: {threads}");
    stop(context, vm)?;
    managed.remove()
}

fn below(context: &Context) -> Result<()> {
    need_root()?;
    let managed = Managed::new(context)?;
    hold_to_a_fifth(&managed)?;
    let path = format!("/{}", managed.name);
    let builder = spinning(context, "below", &path);
    let vm = started(builder.arg("--limits", "of=vmm,pids=40"))?;
    let vmm = i64::from(inspect::process(context, vm.name(), "vmm")?.as_raw());
    for controller in ["cpu", "pids"] {
        let (dir, _) = settled(vmm, controller, &["vmm"])?;
        let vms = managed.dir(controller)?.join("bulkhead");
        ensure!(dir.starts_with(&vms), "it is in {}", dir.display());
    }
    let (pids, _) = settled(vmm, "pids", &["vmm"])?;
    let most = fs::read_to_string(pids.join("pids.max"))?;
    ensure!(most.trim() == "40", "pids.max is {most}");
    wait_until_throttled(managed.dir("cpu")?)?;
    stop(context, vm)?;
    managed.expect_empty()?;

    let mut vm = started(spinning(context, "killed", &path))?;
    let jailer = inspect::process(context, vm.name(), "jailer")?;
    kill(jailer, Signal::SIGKILL)?;
    vm.wait_exit(PATIENCE)?;
    let living = procs::wait_for_none(PATIENCE);
    ensure!(living.is_empty(), "processes are left: {living:?}");
    context.run(&["ps"])?;
    managed.expect_empty()?;
    managed.remove()
}

/// A guest that fills its memory beyond what the manager's group may have: the kernel kills its vmm.
fn filled(context: &Context) -> Result<()> {
    const LIMIT_BYTES: &str = "100663296";
    need_root()?;
    let managed = Managed::new(context)?;
    let old = managed.dir("memory")?.join("memory.limit_in_bytes");
    let file = match old.exists() {
        true => old,
        false => managed.dir("memory")?.join("memory.max"),
    };
    fs::write(&file, LIMIT_BYTES).with_context(|| file.display().to_string())?;
    let kernel = NoOsKernel::new().say("up\n").echo_until_q();
    let kernel = kernel.fill((200 << 20) / 4096).say("full\n").spin();
    let builder = context.vm("filled").boots_no_os(&kernel).mem_mib(256);
    let mut vm = builder
        .arg("--cgroup", format!("/{}", managed.name))
        .start()?;
    vm.wait_for("up\n", PATIENCE)?;
    let vmm = i64::from(inspect::process(context, vm.name(), "vmm")?.as_raw());
    settled(vmm, "memory", &["vmm", vm.name()])?;
    vm.type_text("q")?;
    let status = vm.wait_exit(PATIENCE)?;
    let output = context.run(&["inspect", vm.name(), "--json"])?;
    let ended: Value = serde_json::from_slice(&output.stdout).context("how it ended")?;
    println!("it ended with status {status}: {ended}");
    let detail = ended["detail"].as_str().context("no detail")?;
    ensure!(status == 1 && ended["reason"] == "host-error", "{ended}");
    ensure!(
        detail.starts_with("the vmm was killed by SIGKILL; "),
        "{detail}"
    );
    ensure!(
        detail.contains("the kernel has killed 1 of the VM's"),
        "{detail}"
    );
    ensure!(!vm.console().text().contains("full"), "all of it was there");
    managed.expect_empty()?;
    managed.remove()
}

/// What is refused, and with which words.
fn refused(context: &Context) -> Result<()> {
    need_root()?;
    let managed = Managed::new(context)?;
    let name = format!("/{}", managed.name);
    let refuse = |cgroup: &str, status, words: &[&str]| {
        complains(
            &mut spinning(context, "bad", cgroup).command()?,
            status,
            words,
        )
    };
    refuse("a/b", USAGE, &["--cgroup", "a/b", "expected inherit"])?;
    refuse(
        "/a/../b",
        USAGE,
        &["--cgroup", "/a/../b", "must not hold .."],
    )?;
    refuse("/no-such", ERROR, &["cgroup", "\"/no-such\"", "make it"])?;
    let dir = managed.dir("cpu")?.display().to_string();
    match managed.is_old {
        true => refuse(&dir, ERROR, &["cgroup", "version 1", &name])?,
        false => {
            managed.enter()?;
            let tried = refuse(&name, ERROR, &["cgroup", &name, "holds processes"]);
            managed.leave()?;
            tried?;
        }
    }
    for (limits, words) in [
        ("of=vm,cpu=50", ["limits.cpu", "\"50\"", "cgroup inherit"]),
        ("of=vm,pids=50", ["limits.pids", "\"50\"", "cgroup inherit"]),
    ] {
        let builder = spinning(context, "bad", "inherit");
        let builder = builder.arg("--limits", limits);
        complains(&mut builder.command()?, ERROR, &words)?;
    }
    let command = spinning(context, "bad", &name).command()?;
    let mut read_only = mounts::after(CGROUPS_READ_ONLY, &command);
    context.prepare(&mut read_only);
    complains(&mut read_only, ERROR, &["cgroup", &name, "Read-only"])?;
    let mut foreign = as_user(context, &command)?;
    complains(&mut foreign, ERROR, &["cgroup", &name, "belongs to user 0"])?;
    let groups = cgroups(&context.name_of("bad"));
    ensure!(groups.is_empty(), "control groups are left: {groups:?}");
    managed.expect_empty()?;
    managed.remove()
}

/// The same as a user who is not root.
fn as_user(context: &Context, command: &Command) -> Result<Command> {
    rootless::programs(context)?;
    Ok(rootless::as_user(context, command))
}
