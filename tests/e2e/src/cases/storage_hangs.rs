// SPDX-License-Identifier: Apache-2.0
//! Storage that does not answer at all: an image on a file system that hangs. What waits for it is one
//! device, or the start of its own VM; signals, the API and other devices do not.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::Case;
use crate::context::Context;
use crate::fuse::{Fuse, Op};
use crate::inspect::{process, quietly};
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Vm};

/// What any look at an image is.
const LOOKS: [Op; 5] = [Op::Getattr, Op::Open, Op::Read, Op::Write, Op::Fsync];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::native(
            "storage_that_hangs_in_open_holds_up_no_signal_at_the_start",
            |context| start_ends(context, &[Op::Open]),
        ),
        Case::native(
            "storage_that_hangs_in_stat_holds_up_no_signal_at_the_start",
            |context| start_ends(context, &[Op::Getattr]),
        ),
        Case::native("storage_that_hangs_at_the_start_is_waited_for", start_waits),
    ];
    for engine in ["uring", "threads"] {
        cases.extend([
            Case::native(
                format!("storage_that_hangs_under_a_restart_on_{engine}_holds_up_nobody_else"),
                move |context| restart_waits(context, engine),
            )
            .with_engine(engine),
            Case::native(
                format!("storage_that_hangs_under_a_reboot_on_{engine}_holds_up_no_signal"),
                move |context| reboot_ends(context, engine),
            )
            .with_engine(engine),
        ]);
    }
    cases
}

/// A file system that hangs, and an image on it.
fn fuse(context: &Context) -> Result<Fuse> {
    let dir = context.dir().join("hangs");
    std::fs::create_dir(&dir)?;
    Fuse::mount(&dir, 1 << 20)
}

fn disk(fuse: &Fuse, engine: &str) -> String {
    format!("path={},engine={engine}", fuse.image().display())
}

/// The state of the first device.
fn state(context: &Context, vm: &Vm) -> Result<String> {
    let text = quietly(context, &["inspect", vm.name(), "--json"])?;
    let info: Value = serde_json::from_str(&text)?;
    let state = info["devices"][0]["state"].as_str();
    Ok(state.context("no state")?.to_owned())
}

fn wait_for_state(context: &Context, vm: &Vm, wanted: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let state = state(context, vm)?;
        if state == wanted {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "it is {state}, not {wanted}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The state of a device tells that it is asked for, a moment before its storage is.
fn wait_until_asked(fuse: &Fuse) -> Result<()> {
    let begun = Instant::now();
    while !fuse.is_waited_for() {
        ensure!(begun.elapsed() < PATIENCE, "nobody waits for the storage");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Kills the backend of a device; what the VM said of it may be older than its last restart.
fn kill_backend(context: &Context, vm: &Vm, role: &str) -> Result<()> {
    let begun = Instant::now();
    while kill(process(context, vm.name(), role)?, Signal::SIGKILL).is_err() {
        ensure!(begun.elapsed() < PATIENCE, "{role} has no process");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The processes of a VM that has ended: the one that waits for its storage, and none once that
/// answers.
fn expect_nothing_left(fuse: &Fuse) -> Result<()> {
    fuse.release();
    let living = procs::wait_for_none(PATIENCE);
    ensure!(living.is_empty(), "processes are left: {living:?}");
    Ok(())
}

fn start_ends(context: &Context, ops: &[Op]) -> Result<()> {
    let fuse = fuse(context)?;
    fuse.hang(ops);
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let vm = context.vm("hangs").boots_no_os(&kernel);
    let mut vm = vm.arg("--disk", disk(&fuse, "uring")).start()?;
    vm.log().wait_for("waits for its storage", 0, PATIENCE)?;
    wait_until_asked(&fuse)?;

    vm.signal(Signal::SIGTERM)?;

    vm.expect_exit(0)?;
    let said = vm.log().text();
    ensure!(said.contains("ended by SIGTERM while disk"), "{said}");
    let state = context.state_dir("hangs");
    ensure!(!state.exists(), "{} is left", state.display());
    expect_nothing_left(&fuse)
}

fn start_waits(context: &Context) -> Result<()> {
    let fuse = fuse(context)?;
    fuse.hang(&LOOKS);
    let kernel = NoOsKernel::new().say("hello\n").power_off();
    let vm = context.vm("hangs").boots_no_os(&kernel);
    let mut vm = vm.arg("--disk", disk(&fuse, "uring")).start()?;
    vm.log().wait_for("waits for its storage", 0, PATIENCE)?;

    fuse.release();

    vm.wait_for("hello\n", PATIENCE)?;
    vm.expect_exit(0)
}

/// A VM whose first disk is on storage that can hang, and whose second is not.
fn two_disks(context: &Context, fuse: &Fuse, engine: &str, kernel: &NoOsKernel) -> Result<Vm> {
    let other = context.sparse_file("other", 1 << 20)?;
    let vm = context.vm("hangs").boots_no_os(kernel);
    let vm = vm.arg("--disk", disk(fuse, engine));
    let mut vm = vm
        .arg("--disk", format!("path={}", other.display()))
        .start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    Ok(vm)
}

fn restart_waits(context: &Context, engine: &str) -> Result<()> {
    let fuse = fuse(context)?;
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut vm = two_disks(context, &fuse, engine, &kernel)?;
    wait_for_state(context, &vm, "serving")?;
    fuse.hang(&LOOKS);
    kill_backend(context, &vm, "blk disk0")?;
    wait_for_state(context, &vm, "opening")?;
    wait_until_asked(&fuse)?;

    // Whoever looks, and another device, does not wait; nor does an upgrade of it hold up anything.
    let begun = Instant::now();
    context.run_ok(&["restart", vm.name(), "disk1", "--wait"])?;
    kill_backend(context, &vm, "blk disk1")?;
    let events = || quietly(context, &["events", vm.name()]);
    while !events()?.contains("waits for its storage") {
        ensure!(begun.elapsed() < PATIENCE, "no event says so");
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(state(context, &vm)? == "opening", "it did not wait");

    fuse.release();
    wait_for_state(context, &vm, "serving")?;
    fuse.hang(&LOOKS);
    kill_backend(context, &vm, "blk disk0")?;
    wait_for_state(context, &vm, "opening")?;
    // The guest does not hear its button: the second signal that is noticed ends it.
    vm.signal(Signal::SIGTERM)?;
    while vm.wait_exit(Duration::from_secs(1)).is_err() {
        ensure!(begun.elapsed() < PATIENCE, "no signal ends it");
        vm.signal(Signal::SIGTERM)?;
    }
    vm.expect_exit(128 + Signal::SIGTERM as i32)?;
    expect_nothing_left(&fuse)
}

fn reboot_ends(context: &Context, engine: &str) -> Result<()> {
    let fuse = fuse(context)?;
    let kernel = NoOsKernel::new().say("hello\n").echo_until_q().reset();
    let mut vm = two_disks(context, &fuse, engine, &kernel)?;
    fuse.hang(&LOOKS);
    vm.type_text("q")?;
    wait_for_state(context, &vm, "opening")?;

    vm.signal(Signal::SIGTERM)?;

    vm.expect_exit(0)?;
    expect_nothing_left(&fuse)
}
