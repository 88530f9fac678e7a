// SPDX-License-Identifier: Apache-2.0
//! Backends that are replaced on request, upgraded, or hang, while a driver loads and checks the
//! disk. Everything is real but the guest.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::Case;
use crate::context::{Context, Skip};
use crate::stand::{Stand, pause_ns};
use crate::vm::PATIENCE;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for engine in ["uring", "threads"] {
        cases.push(Case::native(
            format!("restart_asked_for_on_{engine}_costs_a_pause_and_nothing_else"),
            move |context| asked(context, engine),
        ));
        cases.push(Case::native(
            format!("upgrade_on_{engine}_costs_a_pause_and_nothing_else"),
            move |context| upgraded(context, engine, 20),
        ));
        cases.push(Case::native(
            format!("upgrade_on_{engine}_to_a_program_that_dies_is_rolled_back"),
            move |context| rolled_back(context, engine, "backend-that-dies", 3),
        ));
        cases.push(
            Case::native(
                format!("upgrade_500_times_on_{engine}_loses_nothing"),
                move |context| upgraded(context, engine, 500),
            )
            .soak(Duration::from_secs(600)),
        );
    }
    cases.extend([
        Case::native(
            "upgrade_to_a_program_that_hangs_is_rolled_back",
            |context| rolled_back(context, "uring", "backend-that-hangs", 1),
        ),
        // Threads wait, and not the worker, which would be found hung.
        Case::native(
            "upgrade_to_a_program_that_waits_for_ever_is_rolled_back",
            |context| rolled_back(context, "threads,direct", "backend-that-waits", 1),
        ),
        Case::native("backend_stopped_is_found_and_replaced", stopped),
        Case::native(
            "upgrade_that_cannot_be_is_refused_and_the_old_one_goes_on",
            refused,
        ),
        Case::native("device_stalled_serves_again_when_asked_for", stalled),
        Case::native(
            "disk_of_a_foreign_backend_without_a_record_asks_for_a_reset",
            foreign,
        ),
    ]);
    cases
}

fn disk(engine: &str) -> String {
    format!(",queues=2,engine={engine}")
}

fn count(stand: &Stand, kind: &str) -> Result<usize> {
    let events = stand.events()?;
    Ok(events.iter().filter(|event| event["kind"] == kind).count())
}

fn asked(context: &Context, engine: &str) -> Result<()> {
    let stand = Stand::start(context, "asked", 8, &disk(engine))?;
    let mut before = stand.backend()?;
    let until = Instant::now() + Duration::from_secs(5);
    let mut restarts = 0;
    while restarts < 10 && Instant::now() < until {
        restarts += 1;
        std::thread::sleep(Duration::from_millis(100));
        stand.bulkhead_ok("restart", &["disk0", "--wait"])?;
        let after = stand.backend()?;
        ensure!(after != before, "it is the same process");
        before = after;
    }
    let info = stand.info()?;
    ensure!(
        info["devices"][0]["restarts"] == 0,
        "asked for, not died: {info}"
    );
    let output = stand.bulkhead("restart", &["disk7"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("disk7"),
        "{said}"
    );
    stand.finish().map(drop)
}

fn upgraded(context: &Context, engine: &str, times: u32) -> Result<()> {
    let seconds = if times > 100 { 240 } else { 10 };
    let stand = Stand::start(context, "upgraded", seconds, &disk(engine))?;
    let new = stand.dir().join("blk-backend-new");
    std::fs::copy(stand.dir().join("blk-backend"), &new)?;
    let until = Instant::now() + Duration::from_secs(seconds - 3);
    let mut done = 0;
    while done < times && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(30));
        let before = stand.backend()?;
        stand.bulkhead_ok(
            "upgrade",
            &["disk0", "--binary", &new.display().to_string()],
        )?;
        ensure!(stand.backend()? != before, "it is the same process");
        done += 1;
    }
    println!("SEEN upgraded engine={engine} times={done}");
    ensure!(done >= times.min(5), "{done} upgrades only");
    // Gone from the disk, it still is the program of the next backend.
    std::fs::remove_file(&new)?;
    let (dead, _) = stand.signal(Signal::SIGKILL)?;
    let pid = stand.backend_after(dead)?;
    let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    ensure!(
        program.display().to_string().contains("blk-backend-new"),
        "{program:?}"
    );
    stand.finish().map(drop)
}

/// The new program is found fit, takes over, and completes nothing.
fn rolled_back(context: &Context, engine: &str, faulty: &str, times: usize) -> Result<()> {
    let stand = Stand::start(context, "rolledback", 16, &disk(engine))?;
    let binary = context.program(faulty).display().to_string();
    let own = std::fs::read_link(format!("/proc/{}/exe", stand.backend()?))?;
    for _ in 0..times {
        std::thread::sleep(Duration::from_millis(200));
        let before = stand.backend()?;
        let output = stand.bulkhead("upgrade", &["disk0", "--binary", &binary])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1) && said.contains("the new backend"),
            "{said}"
        );
        let after = stand.backend()?;
        ensure!(after != before, "the new program never had its turn");
        let program = std::fs::read_link(format!("/proc/{after}/exe"))?;
        ensure!(program == own, "served by {program:?}");
    }
    let rolled = count(&stand, "upgrade-rolled-back")?;
    ensure!(rolled == times, "{:?}", stand.events()?);
    let gaps = stand.finish()?.gaps;
    let longest_ns = gaps.iter().map(|(from, to)| to - from).max().unwrap_or(0);
    println!(
        "SEEN rolled-back program={faulty} times={times} longest_pause_ms={}",
        longest_ns / 1_000_000
    );
    Ok(())
}

fn stopped(context: &Context) -> Result<()> {
    let stand = Stand::start(context, "stopped", 6, &disk("uring"))?;
    std::thread::sleep(Duration::from_millis(300));
    let (hung, then_ns) = stand.signal(Signal::SIGSTOP)?;
    stand.backend_after(hung)?;
    ensure!(count(&stand, "backend-hung")? == 1, "{:?}", stand.events()?);
    let gaps = stand.finish()?.gaps;
    let pause_ns = pause_ns(&gaps, then_ns, 500_000_000).context("there was no pause")?;
    println!("resumed after {} ms", pause_ns / 1_000_000);
    ensure!(pause_ns > 1_000_000_000, "stopped, and served all the same");
    // The contract says 3 s; a busy host may add to it.
    ensure!(pause_ns < 4_000_000_000, "resumed after {pause_ns} ns only");
    Ok(())
}

fn refused(context: &Context) -> Result<()> {
    let stand = Stand::start(context, "refused", 8, &disk("uring"))?;
    let before = stand.backend()?;
    let program = |name: &str| context.program(name).display().to_string();
    let kernel = stand.dir().join("kernel").display().to_string();
    for (binary, why) in [
        // It gives up at once: that is no device it could serve.
        (program("vmm-standin"), "the new backend"),
        (kernel, "the new backend"),
        ("/nonexistent".into(), "No such file"),
    ] {
        let output = stand.bulkhead("upgrade", &["disk0", "--binary", &binary])?;
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{said}");
        ensure!(
            output.status.code() == Some(1) && said.contains(why),
            "{said}"
        );
        ensure!(stand.backend()? == before, "the old one is gone");
    }
    // A disk that shrank is not the guest's any more.
    let image = std::fs::File::options()
        .write(true)
        .open(stand.dir().join("image"))?;
    let len = image.metadata()?.len();
    image.set_len(len / 2)?;
    let binary = program("blk-backend");
    let output = stand.bulkhead("upgrade", &["disk0", "--binary", &binary])?;
    image.set_len(len)?;
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    ensure!(
        output.status.code() == Some(1) && said.contains("configuration"),
        "{said}"
    );
    ensure!(stand.backend()? == before, "the old one is gone");
    stand.finish().map(drop)
}

fn stalled(context: &Context) -> Result<()> {
    let stand = Stand::start(context, "stalled", 10, &disk("uring"))?;
    for death in 1..=5 {
        let (dead, _) = stand.signal(Signal::SIGKILL)?;
        if death < 5 {
            stand.backend_after(dead)?;
        }
    }
    let begun = Instant::now();
    let mut info = stand.info()?;
    while info["devices"][0]["state"] != "stalled" {
        ensure!(begun.elapsed() < Duration::from_secs(3), "{info}");
        std::thread::sleep(Duration::from_millis(5));
        info = stand.info()?;
    }
    ensure!(info["devices"][0]["restarts"] == 5, "{info}");
    stand.bulkhead_ok("restart", &["disk0", "--wait"])?;
    stand.backend()?;
    ensure!(count(&stand, "stalled")? == 1, "it was not told");
    stand.finish().map(drop)
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
    let stand = Stand::start_with(context, "foreign", 60, |dir| {
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
    daemon = Some(storage_daemon(stand.dir())?);
    let begun = Instant::now();
    let told = |event: &Value| {
        let detail = event["detail"].as_str().unwrap_or_default();
        event["kind"] == "stalled" && detail.contains("no record")
    };
    while !stand.events()?.iter().any(told) {
        ensure!(begun.elapsed() < PATIENCE, "{:?}", stand.events()?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let info = stand.info()?;
    ensure!(info["devices"][0]["restarts"] == 1, "{info}");
    stand.bulkhead_ok("stop", &["--force"])?;
    drop(daemon);
    Ok(())
}
