// SPDX-License-Identifier: Apache-2.0
//! The process as the supervisor starts it: everything it may use is open already, at the numbers of
//! `launch::fd`, and its record says what that is.

use std::fs::File;
use std::sync::{Arc, Barrier};

use anyhow::{Context, Result};
use blk_backend::config::Disk;
use blk_backend::device::Device;
use blk_backend::serve::{Given, Service, Source};
use launch::control::{Channel, Failure, FromBackend, ToBackend};
use launch::fd::{self, blk, claim};
use launch::health::HealthPage;
use launch::record::{BlkEngine, BlkRecord};
use launch::seccomp::Mode;

/// Serves the frontend; the process ends with the connection, or with the supervisor.
pub(crate) fn run() -> Result<()> {
    launch::process::harden();
    let record = BlkRecord::read(claim(fd::RECORD)?)?;
    launch::log::init("blk", &record.vm_id, log::LevelFilter::Info);
    let health: &'static HealthPage = Box::leak(Box::new(HealthPage::map(claim(fd::HEALTH)?)?));
    backend::health::announce(health);
    let control = Arc::new(Channel::from(claim(fd::CONTROL)?));
    let outcome = serve(&record, &control, health);
    let last = match &outcome {
        Ok(()) => FromBackend::Hangup,
        Err(e) => FromBackend::Failed(Failure {
            about: None,
            reason: format!("{e:#}"),
        }),
    };
    let _ = control.send(&last);
    outcome
}

fn serve(record: &BlkRecord, control: &Arc<Channel>, health: &'static HealthPage) -> Result<()> {
    let service = Service::start(given(record, health)?)?;
    answer(control.clone(), service.device())?;
    if record.seccomp == Mode::Trap {
        launch::seccomp::report_violations(health).context("cannot handle SIGSYS")?;
    }
    let serving = service.accept()?;
    log::info!(device_id = record.device_id.as_str(); "serving");
    let _ = control.send(&FromBackend::Serving);
    Ok(serving.wait()?)
}

/// Answers the supervisor, on a thread; ends the process when it is gone.
fn answer(control: Arc<Channel>, device: Arc<Device>) -> Result<()> {
    let thread = std::thread::Builder::new().name("control".into());
    let started = Arc::new(Barrier::new(2));
    let here = started.clone();
    let run = move || {
        here.wait();
        while let Ok(Some(message)) = control.receive() {
            match message {
                ToBackend::Ping(ping) => device.ping(ping),
                // A disk has none.
                ToBackend::Link(_) => {}
            }
        }
        // It has died, or talks nonsense: nobody is left who could want this process.
        std::process::exit(0);
    };
    thread
        .stack_size(64 << 10)
        .spawn(run)
        .context("cannot start a thread")?;
    // The filter has no room for what a thread does to start.
    started.wait();
    Ok(())
}

fn given(record: &BlkRecord, health: &'static HealthPage) -> Result<Given> {
    let disk = Disk {
        geometry: record.geometry,
        readonly: record.readonly,
        serial: Disk::serial_from(&record.serial),
        queues: record.queues,
        queue_size: record.queue_size,
    };
    disk.check()?;
    let engine = match &record.engine {
        BlkEngine::Uring(rings) => {
            let rings = (blk::RING..).zip(rings).take(usize::from(blk::QUEUES_MAX));
            let rings =
                rings.map(|(number, params)| Ok(launch::ring::adopt(claim(number)?, params)?));
            Source::Rings(rings.collect::<Result<_>>()?)
        }
        BlkEngine::Threads => {
            let direct = record.geometry.memory_align_bytes > 1;
            Source::Threads(Arc::new(File::from(claim(blk::DISK)?)), direct)
        }
    };
    Ok(Given {
        disk,
        listener: claim(blk::LISTENER)?,
        engine,
        inflight: Some(claim(blk::INFLIGHT)?),
        after_crash: record.after_crash,
        health,
        poll_us: record.poll_us,
        seccomp: Some(record.seccomp),
    })
}
