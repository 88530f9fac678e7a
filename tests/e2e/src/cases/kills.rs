// SPDX-License-Identifier: Apache-2.0
//! Killing any process of a VM at any moment, also while it starts: nothing of it is left.

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Case, ONCE};
use crate::context::Context;
use crate::machine::Machine;
use crate::network::{enter_empty, interfaces};
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
pub(super) use crate::procs::cgroups_of as cgroups;
use crate::vm::PATIENCE;

/// So often in a normal run.
const ROUNDS: u32 = 24;
/// So often with `--soak`.
const SOAK_ROUNDS: u32 = 200;
/// While a VM starts, somebody is killed so soon after he was born; not even a start takes longer.
const STARTED_US: u32 = 15_000;
/// The last moment at which somebody is killed: a VM is up long before.
const LATEST_US: u32 = 150_000;
/// Whom to kill; the jailer is another case, because what it leaves is swept by others.
const VICTIMS: [&str; 5] = [
    "supervisor",
    "vmm",
    "blk-backend",
    "net-backend",
    "input-backend",
];
/// Those without which a VM goes on.
const BACKENDS: [&str; 3] = ["blk-backend", "net-backend", "input-backend"];

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native(
            "any_process_killed_at_any_moment_leaves_nothing",
            |context| kills(context, ROUNDS),
        ),
        Case::native(
            "any_process_killed_at_any_moment_leaves_nothing_for_long",
            |context| kills(context, SOAK_ROUNDS),
        )
        .soak(Duration::from_secs(900)),
        Case::native(
            "jailer_killed_at_any_moment_is_swept_by_the_next_command",
            jailer,
        )
        .not_on(Machine::SECOND, ONCE),
        Case::native(
            "vm_killed_and_its_state_removed_by_hand_is_swept_by_the_next",
            forgotten,
        )
        .not_on(Machine::SECOND, ONCE),
    ]
}

/// Another moment at each call, somewhere before `latest_us`.
pub(super) fn moment(latest_us: u32) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanos = now.map_or(0, |now| now.subsec_nanos());
    // The low digits are the ones that differ; spread them.
    Duration::from_micros(u64::from(nanos.wrapping_mul(2_654_435_761) % latest_us))
}

/// What the VM of a round is called in its case.
fn victim(round: u32) -> String {
    format!("victim{round}")
}

fn start(context: &Context, round: u32) -> Result<crate::vm::Vm> {
    let image = context.sparse_file(&format!("{round}.img"), 1 << 20)?;
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let vm = context.vm(&victim(round)).boots_no_os(&kernel);
    vm.arg("--disk", format!("path={}", image.display()))
        .arg("--net", "tap=t0")
        .arg("--power-button", "virtio")
        .start()
}

/// The youngest process of this name, if there is one. A copy of a process has its name until it takes
/// one of its own or executes its program: it is not counted.
pub(super) fn youngest(name: &str) -> Option<Pid> {
    let all = procs::living_descendants();
    let is_named = |pid| {
        all.iter()
            .any(|other| other.pid == pid && other.name == name)
    };
    let mut named = all.iter().rev().filter(|process| process.name == name);
    let youngest = named.find(|process| !is_named(process.parent));
    youngest.map(|process| process.pid)
}

/// Kills the youngest process of this name, if there is one.
fn strike(name: &str) -> bool {
    youngest(name).is_some_and(|pid| kill(pid, Signal::SIGKILL).is_ok())
}

/// What a VM could change of its host's.
#[derive(Debug, PartialEq, Eq)]
struct Scene {
    mounts: String,
    interfaces: Vec<String>,
}

impl Scene {
    fn look() -> Result<Self> {
        Ok(Self {
            mounts: fs::read_to_string("/proc/self/mounts")?,
            interfaces: interfaces()?,
        })
    }
}

fn nothing_is_left(context: &Context, round: u32, before: &Scene) -> Result<()> {
    let living = procs::wait_for_none(Duration::from_secs(5));
    ensure!(living.is_empty(), "processes are left: {living:?}");
    let state = context.state_dir(&victim(round));
    ensure!(!state.exists(), "{} is left", state.display());
    let groups = cgroups(&context.name_of(&victim(round)));
    ensure!(groups.is_empty(), "control groups are left: {groups:?}");
    let now = Scene::look()?;
    ensure!(now == *before, "not as before: {now:?}");
    Ok(())
}

fn kills(context: &Context, rounds: u32) -> Result<()> {
    // Where nobody else has taps.
    enter_empty()?;
    let before = Scene::look()?;
    let (mut struck, mut while_starting) = (0, 0);
    // Each is killed soon after his birth, then at any time, and so on.
    let turns = [true, false].map(|newborn| VICTIMS.map(|name| (newborn, name)));
    for (round, (newborn, name)) in (0..rounds).zip(turns.into_iter().flatten().cycle()) {
        let mut vm = start(context, round)?;
        let begun = Instant::now();
        while newborn && youngest(name).is_none() {
            ensure!(begun.elapsed() < PATIENCE, "there is no {name}");
        }
        // Sooner and sooner: on an idle machine a VM is up in a part of that time.
        let latest_us = match newborn {
            true => STARTED_US >> (round / 8 % 3),
            false => LATEST_US,
        };
        let moment = moment(latest_us);
        std::thread::sleep(moment);
        let started = vm.console().text().contains("hello");
        let hit = strike(name);
        println!("round {round}: {name} after {moment:?}, hit {hit}, guest ran {started}");
        struck += u32::from(hit);
        while_starting += u32::from(hit && !started);
        if BACKENDS.contains(&name) || !hit {
            // The VM goes on without it, or without having been hit.
            std::thread::sleep(Duration::from_millis(20));
            vm.signal(Signal::SIGHUP)?;
        }
        vm.wait_exit(PATIENCE)?;
        nothing_is_left(context, round, &before)?;
    }
    println!("{struck} of {rounds} were hit, {while_starting} of them before the guest ran");
    ensure!(struck >= rounds / 4, "hardly anybody was hit");
    ensure!(while_starting > 0, "nobody was hit during a start");
    Ok(())
}

fn jailer(context: &Context) -> Result<()> {
    // Where nobody else has taps.
    enter_empty()?;
    let before = Scene::look()?;
    for round in 0..5 {
        let mut vm = start(context, round)?;
        std::thread::sleep(moment(LATEST_US));
        let hit = strike("jailer");
        let begun = Instant::now();
        if !hit {
            vm.signal(Signal::SIGKILL)?;
        }
        let ended = vm.wait_exit(PATIENCE);
        // One that was killed itself has no status.
        ensure!(!hit || ended.is_ok(), "{ended:?}");
        let living = procs::wait_for_none(Duration::from_secs(5));
        ensure!(living.is_empty(), "it lives on: {living:?}");
        println!("round {round}: hit {hit}, gone after {:?}", begun.elapsed());

        let state = context.state_dir(&victim(round));
        let had_files = fs::read_dir(&state).is_ok_and(|mut files| files.next().is_some());
        let mut told = false;
        let asked = Instant::now();
        loop {
            let swept = context.run(&["ps"])?;
            let said = String::from_utf8_lossy(&swept.stderr);
            let mut lines = said.lines();
            told |= lines.any(|line| line.contains(vm.name()) && line.contains("swept"));
            // `ps` leaves a directory without a socket alone while it is so new that its jailer may be
            // about to lock it.
            if !state.exists() || asked.elapsed() > PATIENCE {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        ensure!(
            told == had_files,
            "there was something: {had_files}; it was told: {told}"
        );
        nothing_is_left(context, round, &before)?;
    }
    Ok(())
}

/// Everything that could tell of a VM is gone, but for its control groups: the next one removes them.
fn forgotten(context: &Context) -> Result<()> {
    // Where nobody else has taps.
    enter_empty()?;
    let before = Scene::look()?;
    let mut lost = start(context, 0)?;
    lost.wait_for("hello", PATIENCE)?;
    ensure!(strike("jailer"), "there was no jailer");
    lost.wait_exit(PATIENCE)?;
    let living = procs::wait_for_none(Duration::from_secs(5));
    ensure!(living.is_empty(), "it lives on: {living:?}");
    fs::remove_dir_all(context.state_dir(&victim(0)))?;
    let left = cgroups(&context.name_of(&victim(0)));
    ensure!(!left.is_empty(), "there is nothing to be swept");

    let mut next = start(context, 1)?;
    next.wait_for("hello", PATIENCE)?;

    // Once its own start is over.
    let begun = Instant::now();
    loop {
        let left = cgroups(&context.name_of(&victim(0)));
        if left.is_empty() {
            break;
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "control groups are left: {left:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    next.signal(Signal::SIGHUP)?;
    next.wait_exit(PATIENCE)?;
    nothing_is_left(context, 1, &before)
}
