// SPDX-License-Identifier: Apache-2.0
//! The supervisor and slow storage: it lets nobody follow a dead backend whose I/O has not ended, and
//! kills nobody whose storage stands still. Everything is real but the guest; of slow storage there is
//! some in the lab only.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use host::clock::monotonic_ns;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use super::{COUNTS, Case};
use crate::context::Context;
use crate::harness::{Device, Harness, Setup};
use crate::storage::Storage;

const SOAK: Duration = Duration::from_secs(30 * 60);
/// How long the slow device delays everything.
const DELAY_MS: u32 = 500;
/// Longer than the counters of a dead backend's rings count.
const UNBELIEVED: Duration = Duration::from_secs(8);
/// Twice as many as there are requests outstanding, so that each block is soon written again.
const BLOCKS: u64 = 128;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for engine in ["uring", "threads"] {
        cases.extend([
            Case::guest(
                format!("supervisor_of_{engine}_before_slow_storage_waits_for_the_dead"),
                move |context| fenced(context, engine, 5),
            )
            .with_engine(engine),
            Case::guest(
                format!("supervisor_of_{engine}_before_slow_storage_waits_for_200_dead"),
                move |context| fenced(context, engine, 100),
            )
            .soak(SOAK),
            Case::guest(
                format!("storage_stalled_under_{engine}_is_no_hang"),
                move |context| stalled(context, engine, 8),
            )
            .only_on_x86(COUNTS),
            Case::guest(
                format!("storage_stalled_under_a_dead_backend_of_{engine}_is_waited_for"),
                move |context| stalled_under_the_dead(context, engine),
            )
            .only_on_x86(COUNTS),
            Case::guest(
                format!("storage_stalled_for_long_under_{engine}_is_no_hang"),
                move |context| stalled(context, engine, 25),
            )
            .soak(SOAK),
        ]);
    }
    cases
}

/// Kills backends with requests in flight to slow storage, while the driver writes the same few
/// blocks again and again: what a dead one had begun must not come after what its successor does.
fn fenced(context: &Context, engine: &str, rounds: u64) -> Result<()> {
    let slow = Storage::slow("jailed", DELAY_MS)?;
    let setup = Setup {
        blocks: BLOCKS,
        image: Some(slow.path()),
        ..Setup::new(context, 10 + 5 * rounds)
    };
    let disk = format!(",direct,queues=2,engine={engine}");
    let harness = Harness::start_as(context, "fenced", setup, Device::Disk(&disk))?;
    let mut waits_ms = Vec::new();
    for _ in 0..rounds {
        // Time enough for requests to be anywhere on their way.
        std::thread::sleep(Duration::from_millis(700));
        let (dead, then_ns) = harness.signal(Signal::SIGKILL)?;
        harness.backend_after(dead)?;
        waits_ms.push(waited_ms(&harness, then_ns)?);
        // The next one dies by the supervisor's own hand, and those before it are forgiven.
        let then_ns = monotonic_ns();
        harness.bulkhead_ok("restart", &["disk0", "--wait"])?;
        waits_ms.push(waited_ms(&harness, then_ns)?);
    }
    harness.finish()?;
    waits_ms.sort_unstable();
    let median = waits_ms[waits_ms.len() / 2];
    println!(
        "SEEN fenced engine={engine} deaths={} wait_p50_ms={median}",
        waits_ms.len()
    );
    ensure!(median > 100, "there was nothing to wait for: {waits_ms:?}");
    Ok(())
}

/// How long after a time the last fence fell. Threads end with their I/O, and so does their process;
/// rings outlive it, and the fence stands for longer than that.
fn waited_ms(harness: &Harness, then_ns: u64) -> Result<u64> {
    let events = harness.events()?;
    let fenced = events.iter().rev().find(|event| event["kind"] == "fenced");
    let fallen_ns = fenced.and_then(|event| event["time_ns"].as_u64());
    let fallen_ns = fallen_ns.context("there was no fence")?;
    Ok(fallen_ns.saturating_sub(then_ns) / 1_000_000)
}

/// The storage does nothing for a while, with everything in flight that the driver has.
fn stalled(context: &Context, engine: &str, seconds: u64) -> Result<()> {
    let storage = Storage::quick("stands")?;
    let setup = Setup {
        image: Some(storage.path()),
        ..Setup::new(context, seconds + 8)
    };
    let disk = format!(",direct,queues=2,engine={engine}");
    let harness = Harness::start_as(context, "stands", setup, Device::Disk(&disk))?;
    std::thread::sleep(Duration::from_secs(1));
    let before = harness.backend()?;
    storage.suspend()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let asleep = uninterruptible(before)?;
    let info = harness.info()?;
    storage.resume()?;
    let state = info["devices"][0]["state"].clone();
    ensure!(
        state == "slow",
        "said to be {state} with its storage stalled"
    );
    ensure!(
        harness.backend()? == before,
        "it was killed for its storage"
    );
    let kinds: Vec<_> = harness.events()?;
    let hung = kinds.iter().any(|event| event["kind"] == "backend-hung");
    ensure!(!hung, "{kinds:?}");
    let gaps = harness.finish()?.gaps;
    let longest_ns = gaps.iter().map(|(from, to)| to - from).max().unwrap_or(0);
    println!(
        "SEEN stalled engine={engine} seconds={seconds} uninterruptible={asleep} pause_ms={}",
        longest_ns / 1_000_000
    );
    let stood = Duration::from_nanos(longest_ns).as_secs() + 2 > seconds;
    ensure!(stood, "the storage was not stalled");
    Ok(())
}

/// A backend dies with its storage standing still, for longer than its rings are believed: nobody
/// follows it before the storage has done what it was asked for.
fn stalled_under_the_dead(context: &Context, engine: &str) -> Result<()> {
    let storage = Storage::quick("dies")?;
    let setup = Setup {
        blocks: BLOCKS,
        image: Some(storage.path()),
        ..Setup::new(context, 25)
    };
    let disk = format!(",direct,queues=2,engine={engine}");
    let harness = Harness::start_as(context, "dies", setup, Device::Disk(&disk))?;
    std::thread::sleep(Duration::from_secs(1));
    storage.suspend()?;
    std::thread::sleep(Duration::from_millis(300));
    let (dead, then_ns) = harness.signal(Signal::SIGKILL)?;
    std::thread::sleep(UNBELIEVED);
    let events = harness.events()?;
    storage.resume()?;
    let late = |event: &&Value| event["time_ns"].as_u64() > Some(then_ns);
    let followed = events
        .iter()
        .filter(late)
        .any(|event| event["kind"] == "backend-started");
    ensure!(!followed, "somebody did not wait: {events:?}");
    harness.backend_after(dead)?;
    let waited_ms = waited_ms(&harness, then_ns)?;
    harness.finish()?;
    println!("SEEN stalled under the dead engine={engine} waited_ms={waited_ms}");
    ensure!(
        waited_ms >= UNBELIEVED.as_millis().try_into()?,
        "{waited_ms} ms"
    );
    Ok(())
}

/// How many threads of a process are in the kernel and do not hear signals.
fn uninterruptible(pid: Pid) -> Result<usize> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("its threads")?;
    let asleep = tasks.flatten().filter(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        state == Some('D')
    });
    Ok(asleep.count())
}
