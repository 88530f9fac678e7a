// SPDX-License-Identifier: Apache-2.0
//! What it takes to start a VM: from `bulkhead run` to the first KVM_RUN, alone with some devices and
//! many VMs at once, and what all processes of an idle one hold of memory that is not the guest's.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use launch::clock::monotonic_ns;
use nix::unistd::Pid;
use serde_json::Value;

use super::{footprint, median};
use crate::context::Context;
use crate::procs;
use crate::tiny_kernel::TinyKernel;
use crate::vm::{PATIENCE, Vm, VmBuilder};

const RUNS: usize = 10;
/// Numbers of disks.
const DEVICES: [usize; 4] = [0, 1, 4, 8];
/// VMs that are started at once.
const AT_ONCE: usize = 50;

/// One start.
struct Launch {
    /// To the first KVM_RUN.
    wall_ms: f64,
    /// On processors, of all processes together.
    cpu_ms: f64,
    pss_kib: u64,
    private_dirty_kib: u64,
}

/// Tables and medians; the result is of a VM with one disk.
pub(super) fn run(context: &Context) -> Result<String> {
    println!("devices  wall ms  cpu ms  PSS KiB  private dirty KiB");
    let mut rows = Vec::new();
    for devices in DEVICES {
        let launches = (0..=RUNS).map(|_| once(context, devices));
        let mut launches = launches.collect::<Result<Vec<_>>>()?;
        // The first one finds cold caches.
        launches.remove(0);
        let of = |value: fn(&Launch) -> f64| median(launches.iter().map(value));
        let last = launches.last().context("no runs")?;
        let row = Launch {
            wall_ms: of(|launch| launch.wall_ms),
            cpu_ms: of(|launch| launch.cpu_ms),
            ..*last
        };
        println!(
            "{devices:>7}  {:>7.1}  {:>6.1}  {:>7}  {:>17}",
            row.wall_ms, row.cpu_ms, row.pss_kib, row.private_dirty_kib
        );
        rows.push(row);
    }
    let (bare, one, most) = (&rows[0], &rows[1], &rows[rows.len() - 1]);
    let jail_ms = median(
        (0..RUNS)
            .map(|_| empty_jail_ms())
            .collect::<Result<Vec<_>>>()?,
    );
    let devices = u32::try_from(DEVICES[DEVICES.len() - 1])?;
    let device_ms = (most.wall_ms - bare.wall_ms) / f64::from(devices);
    println!("an empty jail of a supervisor: {jail_ms:.1} ms; each device: {device_ms:.1} ms");
    let p99_ms = at_once(context)?;
    let cores = u32::try_from(std::thread::available_parallelism()?.get())?;
    let bound_ms = bare.cpu_ms * f64::from(u32::try_from(AT_ONCE)?) / f64::from(cores);
    Ok(format!(
        "launch_wall_ms={:.1} launch_cpu_ms={:.1} jail_cost_ms={jail_ms:.1} device_cost_ms={device_ms:.1} \
         pss_total_kib={} private_dirty_kib={} launch50_p99_ms={p99_ms:.0} launch50_vs_cpu_bound={:.2}",
        one.wall_ms,
        one.cpu_ms,
        one.pss_kib,
        one.private_dirty_kib,
        p99_ms / bound_ms,
    ))
}

fn once(context: &Context, devices: usize) -> Result<Launch> {
    let kernel = TinyKernel::new().say("hello\n").halt();
    let mut builder = context.vm("launch").boots_tiny(&kernel);
    for number in 0..devices {
        let image = context.sparse_file(&format!("image{number}"), 1 << 20)?;
        builder = builder.arg("--disk", format!("path={}", image.display()));
    }
    let begun_ns = monotonic_ns();
    let mut vm = builder.start()?;
    vm.hush();
    vm.wait_for("hello\n", PATIENCE)?;
    let mut launch = Launch {
        wall_ms: 0.0,
        cpu_ms: 0.0,
        pss_kib: 0,
        private_dirty_kib: 0,
    };
    for process in procs::living_descendants() {
        launch.cpu_ms += on_processors_ms(process.pid)?;
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", process.pid))?;
        launch.pss_kib += footprint::sum_in(&smaps, "Pss:");
        launch.private_dirty_kib += footprint::sum_in(&smaps, "Private_Dirty:");
    }
    launch.wall_ms = since_ms(begun_ns, first_run_ns(context, vm.name())?);
    end(context, vm)?;
    Ok(launch)
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
    let ended = jailer::in_place_of_a_supervisor(|| std::process::exit(0));
    let status = ended.map_err(anyhow::Error::msg)?;
    let clean = matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0));
    ensure!(clean, "a jail ended: {status:?}");
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Many at once; the time to the first KVM_RUN that 99 of 100 stay below.
fn at_once(context: &Context) -> Result<f64> {
    let kernel = TinyKernel::new().say("hello\n").halt();
    let names: Vec<_> = (0..AT_ONCE).map(|number| format!("many{number}")).collect();
    // The kernel is a file that each of them would write: all before the first starts.
    let builders = names
        .iter()
        .map(|name| context.vm(name).boots_tiny(&kernel));
    let builders: Vec<_> = builders.collect();
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
