// SPDX-License-Identifier: Apache-2.0
//! Limits that a spec sets: they are in force in the control groups of whatever version this host has,
//! or the VM does not start.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::Case;
use super::bad_input::{ERROR, complains};
use crate::context::{Context, Skip, need_root};
use crate::harness::{Device, Harness, Setup};
use crate::inspect;
use crate::no_os_kernel::NoOsKernel;
use crate::storage::Storage;
use crate::vm::PATIENCE;

/// Where every case runs under version 2.
const VERSION_2: &str = "its case without the version in its name runs under version 2 there";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("limits_of_a_vm_and_its_processes_hold", hold),
        Case::native("limits_of_a_disk_ration_its_requests", ration),
        // With the guests, because the lab's inner host has version 2 alone.
        Case::guest("limits_under_version_2_hold", |context| {
            need_version_2()?;
            hold(context)
        })
        .only_on_x86(VERSION_2),
        Case::guest("limits_under_version_2_ration_requests", |context| {
            need_version_2()?;
            ration(context)
        })
        .only_on_x86(VERSION_2),
        Case::native("limits_that_cannot_be_had_are_refused", refused),
    ]
}

pub(super) fn need_version_2() -> Result<()> {
    match Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => Ok(()),
        false => Err(Skip("this host has control groups of version 1".to_owned()).into()),
    }
}

/// The control group of a process in the hierarchy that has this controller, and whether that is one
/// of version 1.
pub(super) fn group(pid: i64, controller: &str) -> Result<(PathBuf, bool)> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let find = |wanted: &dyn Fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            wanted(names).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let top = PathBuf::from("/sys/fs/cgroup");
    if let Some(path) = find(&|names| names.split(',').any(|name| name == controller)) {
        return Ok((top.join(controller).join(path), true));
    }
    let path = find(&str::is_empty).context("no control group")?;
    Ok((top.join(path), false))
}

/// The same, once the process has been put into a group whose name begins with one of these, which is
/// soon after its start, and in one hierarchy after the other.
pub(super) fn settled(pid: i64, controller: &str, names: &[&str]) -> Result<(PathBuf, bool)> {
    let begun = Instant::now();
    loop {
        let (dir, is_old) = group(pid, controller)?;
        let leaf = dir.file_name().unwrap_or_default().to_string_lossy();
        if names.iter().any(|name| leaf.starts_with(name)) {
            return Ok((dir, is_old));
        }
        ensure!(begun.elapsed() < PATIENCE, "it stays in {}", dir.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn hold(context: &Context) -> Result<()> {
    need_root()?;
    let kernel = NoOsKernel::new().say("spinning\n").spin();
    let mut vm = context
        .vm("held")
        .boots_no_os(&kernel)
        .arg("--limits", "of=vm,memory=80M,cpu=90")
        .arg("--limits", "of=vmm,cpu=20,pids=40")
        .start()?;
    vm.wait_for("spinning", PATIENCE)?;
    let pid = i64::from(inspect::process(context, vm.name(), "vmm")?.as_raw());
    let text = context.run_ok(&["inspect", vm.name()])?;
    ensure!(text.contains("of=vmm,cpu=20,pids=40"), "inspect: {text}");

    let (cpu, is_old) = settled(pid, "cpu", &["vmm"])?;
    let (pids, _) = settled(pid, "pids", &["vmm"])?;
    // Memory is the VM's as a whole: a hierarchy of its own has no groups below.
    let (memory, memory_is_old) = settled(pid, "memory", &["vmm", vm.name()])?;
    let memory = match memory.ends_with("vmm") {
        true => memory.parent().context("no group above")?.to_owned(),
        false => memory,
    };
    let whole = cpu.parent().context("no group above")?;
    let (cpu_file, of_vmm, of_vm) = match is_old {
        true => ("cpu.cfs_quota_us", "20000", "90000"),
        false => ("cpu.max", "20000 100000", "90000 100000"),
    };
    let memory_file = match memory_is_old {
        true => "memory.limit_in_bytes",
        false => "memory.max",
    };
    for (file, content) in [
        (cpu.join(cpu_file), of_vmm),
        (whole.join(cpu_file), of_vm),
        (pids.join("pids.max"), "40"),
        (memory.join(memory_file), "83886080"),
    ] {
        let found = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        println!("{}: {}", file.display(), found.trim());
        ensure!(found.trim() == content, "it is not {content}");
    }
    // The guest turns in circles, so the vmm asks for more than it may have.
    let begun = Instant::now();
    while throttled(&cpu)? == 0 {
        ensure!(begun.elapsed() < PATIENCE, "no process was held back");
        std::thread::sleep(Duration::from_millis(50));
    }
    context.run_ok(&["stop", "--force", vm.name()])?;
    vm.wait_exit(PATIENCE).map(drop)
}

/// In how many periods a group had to wait.
pub(super) fn throttled(group: &Path) -> Result<u64> {
    let stat = fs::read_to_string(group.join("cpu.stat"))?;
    let line = stat.lines().find_map(|l| l.strip_prefix("nr_throttled "));
    match line {
        Some(number) => Ok(number.trim().parse()?),
        None => bail!("{stat}"),
    }
}

/// A driver that asks for as much as it can get is served as often as it may be.
fn ration(context: &Context) -> Result<()> {
    const PER_S: u64 = 50;
    need_root()?;
    // A file system in memory is on no drive.
    let on_drive = libc::major(fs::metadata(context.dir())?.dev()) != 0;
    let storage = match on_drive {
        true => None,
        false => Some(Storage::quick("rationed")?),
    };
    let limits = format!("of=disk0,read-iops={PER_S},write-iops={PER_S}");
    let setup = Setup {
        image: storage.as_ref().map(Storage::path),
        more: &["--limits".to_owned(), limits],
        ..Setup::new(context, 8)
    };
    let disk = Device::Disk(",direct,queues=2");
    let harness = Harness::start_as(context, "rationed", setup, disk)?;
    let pid = harness.backend()?.as_raw();
    // What version 2 calls io.
    let (group, is_old) = settled(pid.into(), "blkio", &["blk-disk0"])?;
    let (before, begun) = (requests(&group, is_old)?, Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let served = requests(&group, is_old)? - before;
    // Reads and writes each have their share; one second's more, for what the kernel hands out ahead.
    let may_be = 2 * PER_S * (begun.elapsed().as_secs() + 2);
    println!("SEEN rationed version_1={is_old} served={served} may_be={may_be}");
    ensure!(served > 0, "no request was counted in {}", group.display());
    ensure!(served <= may_be, "{served} requests, not {may_be}");
    harness.finish().map(drop)
}

/// How many reads and writes have been begun in a group.
fn requests(group: &Path, is_old: bool) -> Result<u64> {
    let (file, keys): (_, &[&str]) = match is_old {
        true => ("blkio.throttle.io_serviced", &["Read ", "Write "]),
        false => ("io.stat", &["rios=", "wios="]),
    };
    let text = fs::read_to_string(group.join(file))?;
    let after = |key: &&str| {
        text.split(*key)
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let numbers = keys.iter().flat_map(after);
    let numbers = numbers.map(|rest| {
        let number = rest.split_whitespace().next().unwrap_or_default();
        number.parse::<u64>().with_context(|| text.clone())
    });
    numbers.sum()
}

fn refused(context: &Context) -> Result<()> {
    need_root()?;
    let shm = tempfile::NamedTempFile::new_in("/dev/shm").context("a file in memory")?;
    shm.as_file().set_len(1 << 20)?;
    let disk = format!("path={},engine=threads", shm.path().display());
    for (limits, words) in [
        ("of=nobody,cpu=1", ["limits.of", "\"nobody\"", "vmm"]),
        ("of=vmm,memory=1G", ["limits.memory", "\"1G\"", "of=vm"]),
        (
            "of=vm,memory=16M",
            ["limits.memory", "\"16M\"", "more than"],
        ),
        ("of=vmm,cpu=0", ["limits.cpu", "\"0\"", "zero"]),
        (
            "of=disk0,read-bps=1M",
            ["limits.of", "\"disk0\"", "no drive"],
        ),
    ] {
        let kernel = NoOsKernel::new().spin();
        let builder = context.vm("bad").boots_no_os(&kernel);
        let builder = builder.arg("--disk", &disk).arg("--limits", limits);
        complains(&mut builder.command()?, ERROR, &words)?;
    }
    Ok(())
}
