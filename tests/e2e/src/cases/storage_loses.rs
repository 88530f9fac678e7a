// SPDX-License-Identifier: Apache-2.0
//! Storage that loses what was written, and a backend that dies after the kernel has told it so and
//! before it has told the driver. Everything is real but the guest.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::Case;
use crate::context::Context;
use crate::fuse::{Fuse, Op};
use crate::harness::{Device, Harness, Setup};
use crate::vm::PATIENCE;

/// How long the driver goes on.
const SECONDS: u64 = 8;
/// Longer than the kernel needs to end a flush whose writes have failed.
const SETTLED: Duration = Duration::from_millis(500);

pub(super) fn cases() -> Vec<Case> {
    let case = |engine: &'static str| {
        let name =
            format!("storage_that_loses_writes_under_a_dying_backend_on_{engine}_is_told_of");
        Case::native(name, move |context| loses(context, engine)).with_engine(engine)
    };
    let told = |engine: &'static str| {
        let name = format!("storage_that_fails_requests_on_{engine}_is_told_of_once");
        Case::native(name, move |context| fails(context, engine)).with_engine(engine)
    };
    vec![
        case("uring"),
        case("threads"),
        told("uring"),
        told("threads"),
    ]
}

/// Each request fails from some time on: the guest is told of each, the operator once.
fn fails(context: &Context, engine: &str) -> Result<()> {
    let dir = context.dir().join("failing");
    fs::create_dir(&dir)?;
    let fuse = Fuse::mount(&dir, 4 << 20)?;
    let image = fuse.image();
    let setup = Setup {
        image: Some(&image),
        blocks: 128,
        ..Setup::new(context, SECONDS)
    };
    let options = format!(",engine={engine}");
    let harness = Harness::start_as(context, "fails", setup, Device::Disk(&options))?;
    harness.backend()?;
    ensure!(harness.count("requests-failed")? == 0, "told of too early");

    fuse.fail(&[Op::Write, Op::Read]);
    wait_until("nothing is told of", || {
        harness.count("requests-failed").is_ok_and(|told| told > 0)
    })?;
    std::thread::sleep(Duration::from_secs(2));

    let events = harness.events()?;
    let mut told = events
        .iter()
        .filter(|event| event["kind"] == "requests-failed");
    let event = told.next().context("it was told of")?;
    ensure!(told.next().is_none(), "told of again: {events:?}");
    let detail = event["detail"].as_str().unwrap_or_default();
    ensure!(
        detail.contains("I/O error") || detail.contains("Input/output error"),
        "{event}"
    );
    println!("SEEN fails engine={engine} detail={detail:?}");
    Ok(())
}

/// A flush fails in the kernel while its backend is stopped, so that it never hears of it: the kernel
/// has told this opening, and tells no later one. The backend is killed; a flush of its successor has
/// to fail.
fn loses(context: &Context, engine: &str) -> Result<()> {
    let dir = context.dir().join("lossy");
    fs::create_dir(&dir)?;
    let fuse = Fuse::mount_cached(&dir, 4 << 20)?;
    let image = fuse.image();
    let setup = Setup {
        image: Some(&image),
        blocks: 128,
        ..Setup::new(context, SECONDS)
    };
    let options = format!(",engine={engine}");
    let harness = Harness::start_as(context, "loses", setup, Device::Disk(&options))?;
    let backend = harness.backend()?;

    fuse.hang(&[Op::Write]);
    wait_until("nothing is written back", || fuse.is_waited_for())?;
    nix::sys::signal::kill(backend, Signal::SIGSTOP)?;
    fuse.fail(&[Op::Write]);
    fuse.release();
    std::thread::sleep(SETTLED);
    fuse.fail(&[]);
    // It may be dead already: one that is stopped is found out.
    let _ = nix::sys::signal::kill(backend, Signal::SIGKILL);
    harness.backend_after(backend)?;

    let patience = Duration::from_secs(SECONDS) + PATIENCE;
    harness.wait_for("DRIVER done", patience)?;
    let console = fs::read_to_string(harness.dir().join("console"))?;
    let done = console.lines().find(|line| line.starts_with("DRIVER done"));
    let done = done.context("it said nothing")?;
    println!("SEEN loses engine={engine} {done}");
    ensure!(
        !done.contains("errors=0 "),
        "the driver was told of no loss"
    );
    let told = fs::read_to_string(context.state_dir("loses").join("log")).unwrap_or_default();
    println!("{told}");
    Ok(())
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !holds() {
        ensure!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
