// SPDX-License-Identifier: Apache-2.0
//! Backends that are replaced on request, or hang, while their device is loaded. Everything is real
//! but the guest.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use host::clock::monotonic_ns;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Case, ONCE, not_on};
use crate::context::{Context, Skip, need_root};
use crate::hang;
use crate::harness::gaps::longest_gap_ns;
use crate::harness::{DEVICES, Device, Harness};
use crate::machine::Machine;
use crate::vm::PATIENCE;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, device) in DEVICES {
        let asked = Case::native(
            format!("restart_asked_for_on_{name}_costs_a_pause_and_nothing_else"),
            move |context| asked(context, device),
        );
        cases.push(asked.with_engine(name));
        let found = [
            Case::native(
                format!("backend_on_{name}_stopped_is_found_and_replaced"),
                move |context| stopped(context, device),
            ),
            Case::native(
                format!("backend_on_{name}_in_a_loop_is_found_and_replaced"),
                move |context| in_a_loop(context, device),
            ),
            Case::native(
                format!("device_on_{name}_stalled_serves_again_when_asked_for"),
                move |context| stalled(context, device),
            ),
        ];
        let found = found.map(|case| case.with_engine(name));
        cases.extend(not_on(Machine::SECOND, ONCE, [found.into()]));
    }
    let foreign = Case::native(
        "disk_of_a_foreign_backend_without_a_record_asks_for_a_reset",
        foreign,
    );
    cases.push(foreign.not_on(Machine::SECOND, ONCE));
    cases
}

fn asked(context: &Context, device: Device) -> Result<()> {
    let harness = Harness::start(context, "asked", 8, device)?;
    let mut before = harness.backend()?;
    let until = Instant::now() + Duration::from_secs(5);
    let mut restarts = 0;
    while restarts < 10 && Instant::now() < until {
        restarts += 1;
        std::thread::sleep(Duration::from_millis(100));
        harness.bulkhead_ok("restart", &[device.id(), "--wait"])?;
        let after = harness.backend()?;
        ensure!(after != before, "it is the same process");
        before = after;
    }
    let info = harness.info()?;
    ensure!(
        info["devices"][0]["restarts"] == 0,
        "asked for, not died: {info}"
    );
    let output = harness.bulkhead("restart", &["disk7"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(5) && said.contains("disk7"),
        "{said}"
    );
    harness.finish()?.frames.explained_by(restarts)
}

fn stopped(context: &Context, device: Device) -> Result<()> {
    let harness = Harness::start(context, "stopped", 6, device)?;
    std::thread::sleep(Duration::from_millis(300));
    let (hung, then_ns) = harness.signal(Signal::SIGSTOP)?;
    harness.backend_after(hung)?;
    ensure!(
        harness.count("backend-hung")? == 1,
        "{:?}",
        harness.events()?
    );
    let summary = harness.finish()?;
    summary.frames.explained_by(1)?;
    let pause_ns = longest_gap_ns(&summary.gaps, then_ns).context("there was no pause")?;
    println!("SEEN stopped pause_ms={}", pause_ns / 1_000_000);
    ensure!(pause_ns > 1_000_000_000, "stopped, and served all the same");
    // The contract says 3 s; a busy host may add to it.
    ensure!(pause_ns < 4_000_000_000, "paused for {pause_ns} ns");
    Ok(())
}

/// A worker that never comes back, in a process that otherwise lives.
fn in_a_loop(context: &Context, device: Device) -> Result<()> {
    need_root()?;
    let harness = Harness::start(context, "loop", 8, device)?;
    std::thread::sleep(Duration::from_millis(300));
    let hung = harness.backend()?;
    let then_ns = monotonic_ns();
    hang::run_in_circles(hung, "vring_worker")?;
    harness.backend_after(hung)?;
    let events = harness.events()?;
    let found = events.iter().any(|event| event["kind"] == "backend-hung");
    let summary = harness.finish()?;
    summary.frames.explained_by(1)?;
    let pause_ns = longest_gap_ns(&summary.gaps, then_ns).context("there was no pause")?;
    println!("SEEN in-a-loop pause_ms={}", pause_ns / 1_000_000);
    ensure!(found, "it was not found hung: {events:?}");
    ensure!(pause_ns > 1_000_000_000, "it was in no loop");
    // The contract says 3 s; a busy host may add to it.
    ensure!(pause_ns < 4_000_000_000, "paused for {pause_ns} ns");
    Ok(())
}

fn stalled(context: &Context, device: Device) -> Result<()> {
    let harness = Harness::start(context, "stalled", 10, device)?;
    for death in 1..=5 {
        let (dead, _) = harness.signal(Signal::SIGKILL)?;
        if death < 5 {
            harness.backend_after(dead)?;
        }
    }
    let begun = Instant::now();
    let mut info = harness.info()?;
    while info["devices"][0]["state"] != "stalled" {
        ensure!(begun.elapsed() < Duration::from_secs(3), "{info}");
        std::thread::sleep(Duration::from_millis(5));
        info = harness.info()?;
    }
    ensure!(info["devices"][0]["restarts"] == 5, "{info}");
    harness.bulkhead_ok("restart", &[device.id(), "--wait"])?;
    harness.backend()?;
    ensure!(harness.count("stalled")? == 1, "it was not told");
    harness.finish()?.frames.explained_by(5)
}

/// QEMU's storage daemon, on the image in this directory.
fn storage_daemon(dir: &Path) -> Result<Helper> {
    let socket = dir.join("qsd.sock");
    let _ = std::fs::remove_file(&socket);
    let image = dir.join("image").display().to_string();
    let child = std::process::Command::new("qemu-storage-daemon")
        .args(["--blockdev", &format!("file,node-name=f,filename={image}")])
        .args(["--blockdev", "raw,node-name=r,file=f", "--export"])
        .arg(format!(
            "vhost-user-blk,id=e,node-name=r,writable=on,num-queues=2,addr.type=unix,addr.path={}",
            socket.display()
        ))
        .stdin(std::process::Stdio::null())
        .spawn();
    let child = match child {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Skip("there is no qemu-storage-daemon".into()).into());
        }
        child => child?,
    };
    let helper = Helper(child);
    let begun = Instant::now();
    while !socket.exists() {
        ensure!(begun.elapsed() < PATIENCE, "no socket");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(helper)
}

/// A process that is killed when it is not needed any more.
struct Helper(std::process::Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn foreign(context: &Context) -> Result<()> {
    let mut daemon = None;
    let harness = Harness::start_with(context, "foreign", 60, |dir| {
        daemon = Some(storage_daemon(dir)?);
        let socket = dir.join("qsd.sock");
        let value = format!(
            "type=blk,id=theirs,queues=2,queue-size=128,socket={}",
            socket.display()
        );
        Ok(("--vhost-user", value))
    })?;
    std::thread::sleep(Duration::from_millis(500));
    // QEMU's daemon keeps no record of what it has in progress: whatever follows it, nobody can know
    // where to go on.
    drop(daemon.take());
    std::thread::sleep(Duration::from_millis(150));
    daemon = Some(storage_daemon(harness.dir())?);
    let begun = Instant::now();
    let told = |event: &Value| {
        let detail = event["detail"].as_str().unwrap_or_default();
        event["kind"] == "stalled" && detail.contains("no record")
    };
    while !harness.events()?.iter().any(told) {
        ensure!(begun.elapsed() < PATIENCE, "{:?}", harness.events()?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let info = harness.info()?;
    ensure!(info["devices"][0]["restarts"] == 1, "{info}");
    harness.bulkhead_ok("stop", &["--force"])?;
    drop(daemon);
    Ok(())
}
