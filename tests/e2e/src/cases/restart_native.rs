// SPDX-License-Identifier: Apache-2.0
//! What a driver notices when the disk backend under it dies: the real process, the load generator
//! as driver and supervisor, no guest. And what a storm of deaths leaves behind in the jailer.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{COUNTS, Case};
use crate::context::Context;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Vm};

const SOAK: Duration = Duration::from_secs(30 * 60);
/// Half a million instructions are carried out one by one, each with two changes of the process.
const STEPPED: Duration = Duration::from_secs(10 * 60);
/// The VMs of a storm.
const STORM_VMS: usize = 3;
/// So many deaths within a minute are the last.
const DEATHS_MAX: u32 = 5;

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = ["uring", "threads"]
        .into_iter()
        .flat_map(crash_tests)
        .collect();
    cases.push(Case::native(
        "backends_dying_in_a_storm_stall_and_leak_nothing",
        storm,
    ));
    cases
}

fn crash_tests(engine: &'static str) -> Vec<Case> {
    let case = |what: &str, outcome: &str, crash: &'static str| {
        let name = format!("backend_on_{engine}_{what}_{outcome}");
        let case = Case::native(name, move |context| crash_test(context, engine, crash));
        // What dies in the middle of a request is the engine.
        if what == "killed_at_random" {
            case
        } else {
            case.with_engine(engine)
        }
    };
    vec![
        case("killed_at_random", "loses_nothing", "kill --kills 20"),
        case(
            "killed_a_thousand_times",
            "loses_nothing",
            "kill --kills 1000",
        )
        .soak(SOAK),
        case("away", "is_waited_for", "away --seconds 5"),
        case("away_for_long", "is_waited_for", "away --seconds 120").soak(SOAK),
        case(
            "dead_after_any_store_of_a_request",
            "loses_nothing",
            "stores --batch 1",
        )
        .within(STEPPED)
        .only_on_x86(COUNTS),
        case(
            "dead_after_any_store_of_a_batch",
            "loses_nothing",
            "stores --batch 8",
        )
        .within(STEPPED)
        .only_on_x86(COUNTS),
        case("given_a_poison_request", "dies_three_times", "poison"),
        case(
            "dead_with_kicks_suppressed",
            "is_followed_by_one_that_looks",
            "suppressed --rounds 25",
        ),
        case(
            "dead_with_kicks_suppressed_500_times",
            "is_followed_by_one_that_looks",
            "suppressed --rounds 500",
        )
        .soak(SOAK),
        case(
            "dead_before_its_call",
            "is_made_up_for",
            "uncalled --rounds 25",
        ),
        case(
            "dead_before_its_call_500_times",
            "is_made_up_for",
            "uncalled --rounds 500",
        )
        .soak(SOAK),
    ]
}

/// Lets the load generator do something to a backend.
fn crash_test(context: &Context, engine: &str, crash: &str) -> Result<()> {
    let mut command = Command::new(context.program("loadgen"));
    command
        .args(["crash-tests", "--engine", engine, "--binary"])
        .arg(context.program("blk-backend"))
        .args(crash.split(' '))
        .env("TMPDIR", context.dir());
    let status = command.status().context("loadgen")?;
    ensure!(status.success(), "loadgen crash-tests {crash}: {status}");
    Ok(())
}

/// How long nothing changes once nothing is under way, and how often that is looked at.
const STEADY: Duration = Duration::from_millis(300);
const LOOKS: u32 = 20;

/// What a VM holds on the host: processes below its jailer, and descriptors of all of them but the
/// backends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holdings {
    processes: usize,
    descriptors: usize,
    cgroups: usize,
}

/// What is held once nothing is under way: a jailer has a process's pidfd until it has moved that
/// process into its control group.
fn holdings() -> Holdings {
    let mut held = holdings_now();
    for _ in 0..LOOKS {
        std::thread::sleep(STEADY);
        let before = std::mem::replace(&mut held, holdings_now());
        if before == held {
            break;
        }
    }
    held
}

fn holdings_now() -> Holdings {
    let all = procs::living_descendants();
    let lasting = all.iter().filter(|process| process.name != "blk-backend");
    Holdings {
        processes: all.len(),
        descriptors: lasting.map(|process| descriptors(process.pid)).sum(),
        cgroups: cgroups("/sys/fs/cgroup"),
    }
}

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Control groups whose path names a VM of this process.
fn cgroups(below: &str) -> usize {
    let prefix = crate::context::name_prefix(nix::unistd::getpid().as_raw());
    let entries = fs::read_dir(below).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| {
        let path = entry.path().display().to_string();
        usize::from(path.contains(&prefix)) + cgroups(&path)
    })
    .sum()
}

fn device(context: &Context, vm: &Vm) -> Result<(String, u32)> {
    let json: Value = serde_json::from_str(&context.run_ok(&["inspect", vm.name(), "--json"])?)?;
    let device = &json["devices"][0];
    let state = device["state"].as_str().unwrap_or_default().to_owned();
    let restarts = device["restarts"].as_u64().unwrap_or(0);
    Ok((state, u32::try_from(restarts)?))
}

/// Waits until a VM's disk is in a state.
fn wait_for_state(context: &Context, vm: &Vm, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (state, restarts) = device(context, vm)?;
        if state == wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} is {state} after {restarts} restarts, not {wanted}",
            vm.name()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn kill_backends() -> u32 {
    let mut killed = 0;
    for process in procs::living_descendants() {
        if process.name == "blk-backend" && kill(process.pid, Signal::SIGKILL).is_ok() {
            killed += 1;
        }
    }
    killed
}

/// Kills every backend of several VMs until none comes any more, then asks for one each.
fn storm(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut vms = Vec::new();
    for number in 0..STORM_VMS {
        let image = context.sparse_file(&format!("image{number}"), 1 << 20)?;
        let builder = context.vm(&format!("storm{number}")).boots_no_os(&kernel);
        let disk = format!("path={}", image.display());
        let mut vm = builder.arg("--disk", disk).start()?;
        vm.wait_for("hello\n", PATIENCE)?;
        wait_for_state(context, &vm, "serving")?;
        vms.push(vm);
    }
    let before = holdings();

    let (mut killed, deadline) = (0, Instant::now() + PATIENCE);
    loop {
        killed += kill_backends();
        let states: Result<Vec<_>> = vms.iter().map(|vm| device(context, vm)).collect();
        if states?.iter().all(|(state, _)| state == "stalled") {
            break;
        }
        ensure!(Instant::now() < deadline, "some backend comes for ever");
        std::thread::sleep(Duration::from_millis(20));
    }
    let stalled = holdings();
    for vm in &vms {
        let (_, restarts) = device(context, vm)?;
        ensure!(restarts >= DEATHS_MAX, "{restarts} deaths are no storm");
        context.run_ok(&["restart", vm.name(), "disk0", "--wait"])?;
        wait_for_state(context, vm, "serving")?;
    }
    let after = holdings();

    println!("SEEN storm vms={STORM_VMS} killed={killed} before={before:?} after={after:?}");
    for vm in &mut vms {
        context.run_ok(&["stop", vm.name(), "--force"])?;
        vm.wait_exit(PATIENCE)?;
    }
    ensure!(
        stalled.processes == before.processes - STORM_VMS,
        "while stalled there is {stalled:?}"
    );
    ensure!(after == before, "{before:?} became {after:?}");
    ensure!(cgroups("/sys/fs/cgroup") == 0, "control groups are left");
    Ok(())
}
