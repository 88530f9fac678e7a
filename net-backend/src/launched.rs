// SPDX-License-Identifier: Apache-2.0
//! The process as the supervisor starts it: everything it may use is open already, at the numbers of
//! `launch::fd`, and its record says what that is.

use std::sync::{Arc, Barrier};

use anyhow::{Context, Result};
use launch::control::{Channel, Failure, FromBackend, ToBackend};
use launch::fd::{self, claim, net};
use launch::health::HealthPage;
use launch::record::NetRecord;
use launch::seccomp::Mode;
use net_backend::config::Nic;
use net_backend::device::Device;
use net_backend::filter::Mac;
use net_backend::serve::{Given, Service};

/// Serves the frontend; the process ends with the connection, or with the supervisor.
pub(crate) fn run() -> Result<()> {
    launch::process::harden();
    let record = NetRecord::read(claim(fd::RECORD)?)?;
    launch::log::init("net", &record.vm_id, log::LevelFilter::Info);
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

fn serve(record: &NetRecord, control: &Arc<Channel>, health: &'static HealthPage) -> Result<()> {
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
        // The call that could bring a descriptor, though none is expected: the filter has it anyway.
        while let Ok(Some((message, _))) = control.receive_with() {
            match message {
                ToBackend::Ping(ping) => device.ping(ping),
                ToBackend::Link(up) => device.set_link(up),
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

fn given(record: &NetRecord, health: &'static HealthPage) -> Result<Given> {
    let nic = Nic {
        mac: Some(Mac(record.mac)),
        mtu: record.mtu,
        pairs: record.pairs,
        queue_size: record.queue_size,
        uso: record.uso,
        guard: record.guard.clone(),
    };
    nic.check()?;
    let taps = (net::TAP..).take(usize::from(nic.pairs)).map(claim);
    Ok(Given {
        taps: taps.collect::<Result<_, _>>()?,
        nic,
        listener: claim(net::LISTENER)?,
        state: Some(claim(net::STATE)?),
        link_up: record.link_up,
        health,
        poll_us: record.poll_us,
        seccomp: Some(record.seccomp),
    })
}
