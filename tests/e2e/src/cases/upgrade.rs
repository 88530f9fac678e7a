// SPDX-License-Identifier: Apache-2.0
//! Backends that are replaced by another program while their device is loaded: by one that serves, by
//! one that is not fit, and by one that is found fit and then does not serve. Everything is real but
//! the guest.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{COUNTS, Case, ONCE, not_on};
use crate::context::Context;
use crate::harness::{DEVICES, Device, Harness};
use crate::machine::Machine;
use crate::vm::PATIENCE;

/// A program that is found fit, takes over, and completes nothing.
#[derive(Debug, Clone, Copy)]
struct Faulty {
    program: &'static str,
    /// How often it is tried.
    times: u32,
    /// We stop it as soon as it has taken over.
    stopped: bool,
    /// It is found hung, since its worker does not answer.
    found: bool,
}

const DIES: Faulty = Faulty {
    program: "backend-that-dies",
    times: 3,
    stopped: false,
    found: false,
};
const HANGS: Faulty = Faulty {
    program: "backend-that-hangs",
    times: 1,
    ..DIES
};
const WAITS: Faulty = Faulty {
    program: "backend-that-waits",
    ..HANGS
};
const LOOPS: Faulty = Faulty {
    program: "backend-that-loops",
    found: true,
    ..HANGS
};
/// It would be waited for, if it were not stopped.
const STOPPED: Faulty = Faulty {
    stopped: true,
    found: true,
    ..HANGS
};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, device) in DEVICES {
        let upgraded = |times| move |context: &Context| upgraded(context, name, device, times);
        let one = Case::native(
            format!("upgrade_on_{name}_costs_a_pause_and_nothing_else"),
            upgraded(20),
        );
        let many = Case::native(
            format!("upgrade_500_times_on_{name}_loses_nothing"),
            upgraded(500),
        );
        cases.push(one.with_engine(name));
        cases.push(many.soak(Duration::from_secs(600)).only_on_x86(COUNTS));
    }
    cases.extend(not_on(
        Machine::SECOND,
        ONCE,
        [rolled_back_cases(), growth_cases(), refusals()],
    ));
    cases
}

/// Programs that are found fit and do not serve.
fn rolled_back_cases() -> Vec<Case> {
    // Threads of a disk hang or wait on their own, without its worker.
    let patient = Device::Disk(",queues=2,engine=threads,direct");
    let nic_waits = Faulty {
        found: true,
        ..WAITS
    };
    let dies = DEVICES.map(|(name, device)| (name, device, "dies", DIES));
    let waits = [
        ("threads", patient, "waits_for_ever", WAITS),
        ("nic", Device::Nic, "waits_for_ever", nic_waits),
    ];
    let all = dies.into_iter().chain(waits).chain(worker_faults());
    all.map(|(name, device, what, faulty)| {
        Case::native(
            format!("upgrade_on_{name}_to_a_program_that_{what}_is_rolled_back"),
            move |context| rolled_back(context, device, faulty),
        )
        .with_engine(name)
    })
    .collect()
}

fn growth_cases() -> Vec<Case> {
    ["uring", "threads"].map(growth).into()
}

fn refusals() -> Vec<Case> {
    vec![
        Case::native(
            "upgrade_that_cannot_be_is_refused_and_the_old_one_goes_on",
            |context| {
                let disk = Device::Disk(",queues=2");
                let harness = Harness::start(context, "refused", 8, disk)?;
                let before = refused(context, &harness, disk)?;
                shrunk(context, &harness, disk, before)?;
                harness.finish().map(drop)
            },
        ),
        Case::native(
            "upgrade_of_a_nic_that_cannot_be_is_refused_and_the_old_one_goes_on",
            |context| {
                let harness = Harness::start(context, "refused", 8, Device::Nic)?;
                refused(context, &harness, Device::Nic)?;
                harness.finish()?.frames.explained_by(0)
            },
        ),
    ]
}

fn growth(engine: &'static str) -> Case {
    let name = format!("upgrade_on_{engine}_whose_image_has_grown_goes_on");
    Case::native(name, move |context| grown(context, engine)).with_engine(engine)
}

/// Faults of the worker itself, in either kind of backend.
fn worker_faults() -> impl Iterator<Item = (&'static str, Device<'static>, &'static str, Faulty)> {
    let faults = [("hangs", HANGS), ("loops", LOOPS), ("is_stopped", STOPPED)];
    let devices = DEVICES.into_iter().filter(|(name, _)| *name != "threads");
    devices.flat_map(move |(name, device)| {
        let faults = faults.into_iter();
        faults.map(move |(what, faulty)| (name, device, what, faulty))
    })
}

/// Asks for another program, which is refused or fails; what is said of it.
fn fails(harness: &Harness, device: Device, binary: &str) -> Result<String> {
    let output = harness.bulkhead("upgrade", &[device.id(), "--binary", binary])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    println!("{said}");
    // The VM refuses, or there is no such program.
    let failed = matches!(output.status.code(), Some(1 | 5));
    ensure!(failed, "{}: {said}", output.status);
    Ok(said)
}

fn upgraded(context: &Context, name: &str, device: Device, times: u32) -> Result<()> {
    let seconds = if times > 100 { 240 } else { 10 };
    let harness = Harness::start(context, "upgraded", seconds, device)?;
    let new = harness.dir().join("backend-new");
    std::fs::copy(harness.dir().join(device.program()), &new)?;
    let until = Instant::now() + Duration::from_secs(seconds - 3);
    let mut done = 0;
    while done < times && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(30));
        let before = harness.backend()?;
        harness.bulkhead_ok(
            "upgrade",
            &[device.id(), "--binary", &new.display().to_string()],
        )?;
        ensure!(harness.backend()? != before, "it is the same process");
        done += 1;
    }
    println!("SEEN upgraded device={name} times={done}");
    ensure!(done >= times.min(5), "{done} upgrades only");
    // Gone from the disk, it still is the program of the next backend.
    std::fs::remove_file(&new)?;
    let (dead, _) = harness.signal(Signal::SIGKILL)?;
    let pid = harness.backend_after(dead)?;
    let program = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    ensure!(
        program.display().to_string().contains("backend-new"),
        "{program:?}"
    );
    // Those that ended in good order have lost no frame.
    harness.finish()?.frames.explained_by(1)
}

fn rolled_back(context: &Context, device: Device, faulty: Faulty) -> Result<()> {
    let harness = Harness::start(context, "rolledback", 16, device)?;
    let binary = context.program(faulty.program).display().to_string();
    let own = std::fs::read_link(format!("/proc/{}/exe", harness.backend()?))?;
    for _ in 0..faulty.times {
        std::thread::sleep(Duration::from_millis(200));
        let before = harness.backend()?;
        let said = std::thread::scope(|scope| {
            let stops = faulty
                .stopped
                .then(|| scope.spawn(|| stop_after(&harness, before)));
            let said = fails(&harness, device, &binary)?;
            match stops.map(std::thread::ScopedJoinHandle::join) {
                Some(Ok(stopped)) => stopped?,
                Some(Err(_)) => anyhow::bail!("a thread panicked"),
                None => {}
            }
            anyhow::Ok(said)
        })?;
        ensure!(said.contains("the new backend"), "{said}");
        served_again_by(&harness, &own, before)?;
    }
    let rolled = harness.count("upgrade-rolled-back")?;
    // By the supervisor, or by the vmm if it was still being told what to serve.
    let found = harness.count("backend-hung")? + harness.count("backend-lost")?;
    ensure!(rolled == faulty.times, "{:?}", harness.events()?);
    ensure!(!faulty.found || found > 0, "{:?}", harness.events()?);
    let summary = harness.finish()?;
    let gaps = summary.gaps.iter().map(|(from, to)| to - from);
    println!(
        "SEEN rolled-back program={} times={} longest_pause_ms={}",
        faulty.program,
        faulty.times,
        gaps.max().unwrap_or(0) / 1_000_000
    );
    // What was lost, if anything, the faulty ones had taken.
    summary.frames.explained_by(faulty.times.into())
}

/// Waits until a process of this program serves the device that is another than `before`: the answer
/// may come a moment earlier.
fn served_again_by(harness: &Harness, program: &Path, before: Pid) -> Result<()> {
    let begun = Instant::now();
    loop {
        let after = harness.backend()?;
        // One that is dying has none.
        let serves = std::fs::read_link(format!("/proc/{after}/exe")).ok();
        if after != before && serves.as_deref() == Some(program) {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "served by {serves:?}, {after}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Stops the backend that follows this one.
fn stop_after(harness: &Harness, old: Pid) -> Result<()> {
    let begun = Instant::now();
    loop {
        let pid = harness.process()?.filter(|pid| *pid != old);
        if let Some(pid) = pid {
            return Ok(kill(pid, Signal::SIGSTOP)?);
        }
        ensure!(begun.elapsed() < PATIENCE, "{old} still serves the device");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Programs that cannot take over; who served the device before them, and still does.
fn refused(context: &Context, harness: &Harness, device: Device) -> Result<Pid> {
    let before = harness.backend()?;
    let kernel = harness.dir().join("kernel").display().to_string();
    let fake = context.program("fake-vmm").display().to_string();
    for (binary, why) in [
        // It gives up at once: that is no device it could serve.
        (fake, "the new backend"),
        (kernel, "the new backend"),
        ("/nonexistent".into(), "No such file"),
    ] {
        let said = fails(harness, device, &binary)?;
        ensure!(said.contains(why), "{said}");
        ensure!(harness.backend()? == before, "the old one is gone");
    }
    Ok(before)
}

/// A disk that shrank is not the guest's any more.
fn shrunk(context: &Context, harness: &Harness, disk: Device, before: Pid) -> Result<()> {
    let image = std::fs::File::options()
        .write(true)
        .open(harness.dir().join("image"))?;
    let len = image.metadata()?.len();
    image.set_len(len / 2)?;
    let binary = context.program(disk.program()).display().to_string();
    let said = fails(harness, disk, &binary);
    image.set_len(len)?;
    let said = said?;
    let sizes = [len / 2, len].map(|bytes| said.contains(&format!("{bytes}")));
    ensure!(sizes == [true; 2] && said.contains("shrunk"), "{said}");
    ensure!(harness.backend()? == before, "the old one is gone");
    Ok(())
}

/// A disk whose image has grown, by whole sectors and not, is served by another program, by the same
/// one once more and after a crash, as the guest knows it.
fn grown(context: &Context, engine: &str) -> Result<()> {
    let options = format!(",queues=2,engine={engine}");
    let disk = Device::Disk(&options);
    let harness = Harness::start(context, "grown", 8, disk)?;
    let image = std::fs::File::options()
        .write(true)
        .open(harness.dir().join("image"))?;
    let len = image.metadata()?.len();
    let binary = context.program(disk.program()).display().to_string();
    for more in [16 << 20, (16 << 20) + 100] {
        image.set_len(len + more)?;
        let before = harness.backend()?;
        harness.bulkhead_ok("upgrade", &[disk.id(), "--binary", &binary])?;
        ensure!(harness.backend()? != before, "it is the same process");
    }
    harness.bulkhead_ok("restart", &[disk.id(), "--wait"])?;
    let (dead, _) = harness.signal(Signal::SIGKILL)?;
    harness.backend_after(dead)?;
    image.set_len(len)?;
    harness.finish().map(drop)
}
