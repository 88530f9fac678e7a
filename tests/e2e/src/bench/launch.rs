// SPDX-License-Identifier: Apache-2.0
//! What it takes to start a VM: from `bulkhead run` to the first KVM_RUN, alone with some devices and
//! many VMs at once, and what all processes of an idle one hold of memory that is not the guest's. In
//! a network namespace of its own, in which taps come and go with their VMs, and with the VMs' state in
//! memory, where a host has /run.
//!
//! There is no way to start these processes without their jails, and there shall be none. So what a
//! jail costs is measured by itself: a supervisor's, built around a copy of this process and left at
//! once. A VM has another one for its vmm and one for each backend.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use host::clock::monotonic_ns;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Pid;
use serde_json::Value;

use super::{footprint, median};
use crate::context::{Context, state_root};
use crate::network::enter_empty;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Vm, VmBuilder};

/// One more than are counted: the first one finds cold caches.
const RUNS: usize = 11;
/// After that a VM with nothing to do is idle, and all its processes have let go of what only their
/// start needed.
const IDLE: Duration = Duration::from_millis(2500);
/// What the result is of.
const USUAL: Load = Load { disks: 1, nics: 1 };
const MOST: Load = Load { disks: 8, nics: 0 };
/// VMs that are started at once.
const AT_ONCE: usize = 50;

/// The devices of a VM.
#[derive(Debug, Clone, Copy)]
struct Load {
    disks: u8,
    nics: u8,
}

/// One start.
struct Launch {
    /// To the first KVM_RUN.
    wall_ms: f64,
    /// On processors, of all processes together.
    cpu_ms: f64,
}

/// The starts of VMs with the same devices.
struct Row {
    /// The medians.
    typical: Launch,
    /// Of one that has become idle: with its share of what others hold, too.
    pss_kib: u64,
    /// Of the same: its own, and changed.
    private_dirty_kib: u64,
}

/// Tables and medians; the result is of VMs with one disk and one NIC.
pub(super) fn run(context: &Context) -> Result<String> {
    enter_empty()?;
    keep_state_in_memory(context)?;
    forget_programs(context)?;
    println!("disks  NICs  wall ms  cpu ms  PSS KiB  private dirty KiB");
    let bare = measured(context, Load { disks: 0, nics: 0 })?.typical;
    measured(context, Load { disks: 1, nics: 0 })?;
    let Row {
        typical: usual,
        pss_kib,
        private_dirty_kib,
    } = measured(context, USUAL)?;
    measured(context, Load { disks: 4, nics: 0 })?;
    let most = measured(context, MOST)?.typical;
    let jail_ms = median(
        (0..RUNS)
            .map(|_| empty_jail_ms())
            .collect::<Result<Vec<_>>>()?,
    );
    let device_ms = (most.wall_ms - bare.wall_ms) / f64::from(MOST.disks);
    println!("an empty jail of a supervisor: {jail_ms:.1} ms; each disk: {device_ms:.1} ms");
    let p99_ms = at_once(context)?;
    let cores = u32::try_from(std::thread::available_parallelism()?.get())?;
    let bound_ms = usual.cpu_ms * f64::from(u32::try_from(AT_ONCE)?) / f64::from(cores);
    Ok(format!(
        "launch_wall_ms={:.1} launch_cpu_ms={:.1} jail_cost_ms={jail_ms:.1} device_cost_ms={device_ms:.1} \
         pss_total_kib={pss_kib} private_dirty_kib={private_dirty_kib} launch50_p99_ms={p99_ms:.0} launch50_vs_cpu_bound={:.2}",
        usual.wall_ms,
        usual.cpu_ms,
        p99_ms / bound_ms,
    ))
}

/// Mounts a tmpfs, which nobody else sees, where VMs keep their state.
fn keep_state_in_memory(context: &Context) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, "/", none, private, none).context("to keep mounts to ourselves")?;
    let dir = state_root(context.dir());
    // As the command line makes it: it stays.
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let options = Some("mode=0700");
    mount(
        Some("state"),
        &dir,
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )
    .context("a tmpfs")
}

/// The medians of some starts, and what the last VM holds when it is idle; printed.
fn measured(context: &Context, load: Load) -> Result<Row> {
    let mut launches = Vec::with_capacity(RUNS);
    for _ in 1..RUNS {
        let (vm, launch) = started(context, load)?;
        end(context, vm)?;
        launches.push(launch);
    }
    let (vm, last) = started(context, load)?;
    thread::sleep(IDLE);
    let (pss_kib, private_dirty_kib) = held_kib()?;
    end(context, vm)?;
    launches.push(last);
    let of = |value: fn(&Launch) -> f64| median(launches.iter().skip(1).map(value));
    let typical = Launch {
        wall_ms: of(|launch| launch.wall_ms),
        cpu_ms: of(|launch| launch.cpu_ms),
    };
    println!(
        "{:>5}  {:>5}  {:>7.1}  {:>6.1}  {pss_kib:>7}  {private_dirty_kib:>17}",
        load.disks, load.nics, typical.wall_ms, typical.cpu_ms
    );
    Ok(Row {
        typical,
        pss_kib,
        private_dirty_kib,
    })
}

/// A VM with these devices. Each has its own disks: the kernel lets go of those of a VM that has
/// ended when it finds the time, and that wait is not the start's.
fn vm<'a>(context: &'a Context, name: &str, load: Load) -> Result<VmBuilder<'a>> {
    let kernel = NoOsKernel::new().say("hello\n").halt();
    let mut builder = context.vm(name).boots_no_os(&kernel);
    for number in 0..load.disks {
        let image = context.dir().join(format!("{name}-{number}"));
        // Of the VM before, if there was one of this name.
        let _ = fs::remove_file(&image);
        let image = context.sparse_file(&format!("{name}-{number}"), 1 << 20)?;
        builder = builder.arg("--disk", format!("path={}", image.display()));
    }
    for number in 0..load.nics {
        builder = builder.arg("--net", format!("tap={name}-{number}"));
    }
    Ok(builder)
}

/// A VM whose guest has run, and what that took.
fn started(context: &Context, load: Load) -> Result<(Vm, Launch)> {
    let builder = vm(context, "launch", load)?;
    let begun_ns = monotonic_ns();
    let mut vm = builder.start()?;
    vm.hush();
    vm.wait_for("hello\n", PATIENCE)?;
    let processes = procs::living_descendants();
    let cpu_ms = processes
        .iter()
        .map(|process| on_processors_ms(process.pid));
    let cpu_ms = cpu_ms.sum::<Result<f64>>()?;
    let wall_ms = since_ms(begun_ns, first_run_ns(context, vm.name())?);
    Ok((vm, Launch { wall_ms, cpu_ms }))
}

/// What all processes together hold of memory: their share of what others hold, too, and what is
/// theirs alone and changed.
fn held_kib() -> Result<(u64, u64)> {
    let (mut pss_kib, mut private_dirty_kib) = (0, 0);
    for process in procs::living_descendants() {
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", process.pid))?;
        pss_kib += footprint::sum_in(&smaps, "Pss:");
        private_dirty_kib += footprint::sum_in(&smaps, "Private_Dirty:");
    }
    Ok((pss_kib, private_dirty_kib))
}

/// Drops the programs from the page cache, so that they are read as after a boot: what a linker has
/// just written is there in larger pieces, which are mapped whole.
fn forget_programs(context: &Context) -> Result<()> {
    for entry in fs::read_dir(context.bin())? {
        let path = entry?.path();
        if path.is_file() {
            let file = File::open(&path)?;
            file.sync_all()?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
    }
    Ok(())
}

fn end(context: &Context, mut vm: Vm) -> Result<()> {
    let mut stop = context.bulkhead();
    stop.args(["stop", vm.name(), "--force"]).output()?;
    vm.wait_exit(PATIENCE).map(drop)
}

fn since_ms(begun_ns: u64, then_ns: u64) -> f64 {
    Duration::from_nanos(then_ns.saturating_sub(begun_ns)).as_secs_f64() * 1e3
}

/// When a VM's guest first ran.
fn first_run_ns(context: &Context, name: &str) -> Result<u64> {
    let inspect = context
        .bulkhead()
        .args(["inspect", name, "--json"])
        .output()?;
    let info: Value = serde_json::from_slice(&inspect.stdout).context("bulkhead inspect --json")?;
    let processes = info["processes"].as_array().context("no processes")?;
    let vmm = processes.iter().find(|process| process["role"] == "vmm");
    let first = vmm.and_then(|vmm| vmm["first_run_ns"].as_u64());
    first.filter(|time| *time > 0).context("it never ran")
}

/// The time that all threads of a process have had.
fn on_processors_ms(pid: Pid) -> Result<f64> {
    let mut sum_ns = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split(' ').next().unwrap_or_default();
        sum_ns += first.parse::<f64>().context("schedstat")?;
    }
    Ok(sum_ns / 1e6)
}

/// Building a supervisor's jail with nothing in it, and its end.
fn empty_jail_ms() -> Result<f64> {
    let begun = Instant::now();
    let ended = jailer::in_place_of_a_supervisor(supervisor::self_test_with_filter, || {
        std::process::exit(0)
    });
    let status = ended.map_err(anyhow::Error::msg)?;
    let clean = matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0));
    ensure!(clean, "a jail ended: {status:?}");
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Many at once; the time to the first KVM_RUN that 99 of 100 stay below.
fn at_once(context: &Context) -> Result<f64> {
    // The kernel is a file that each of them would write: all before the first starts.
    let builders = (0..AT_ONCE).map(|number| vm(context, &format!("many{number}"), USUAL));
    let builders = builders.collect::<Result<Vec<_>>>()?;
    let begun_ns = monotonic_ns();
    let started = builders.into_iter().map(VmBuilder::start);
    let mut vms = started.collect::<Result<Vec<_>>>()?;
    for vm in &mut vms {
        vm.hush();
        vm.wait_for("hello\n", Duration::from_secs(120))?;
    }
    let mut walls = Vec::with_capacity(AT_ONCE);
    for vm in &vms {
        let first_ns = first_run_ns(context, vm.name())?;
        walls.push(since_ms(begun_ns, first_ns));
    }
    for vm in vms {
        end(context, vm)?;
    }
    walls.sort_by(f64::total_cmp);
    let middle = median(walls.iter().copied());
    println!(
        "{AT_ONCE} at once, ms: median {middle:.0}, last {:.0}",
        walls[AT_ONCE - 1]
    );
    Ok(walls[AT_ONCE * 99 / 100])
}
