// SPDX-License-Identifier: Apache-2.0
//! The supervisor's decisions about a device and its VM: deaths, hangs, reports, requests, upgrades and
//! the clock in any order, from a vmm and backends that say anything, also while the guest reboots. The
//! device is never given to a backend while another one that had it lives or has something under way;
//! no backend ends a VM whose guest has run; nobody is replaced for ever; each request is answered once;
//! and when everybody does what he should again, so does the device.

use ipc::control::{DeviceNews, Ending, Failure, FromBackend, FromVmm, QueueSample};
use ipc::slot::DeviceSlot;
use supervisor::testing::{Event, World};

use crate::script::Script;

const STEPS_MAX: usize = 200;

pub(crate) fn run(data: &[u8]) {
    let mut world = World::new();
    let mut script = Script::new(data);
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        world.step(event(step, &mut script));
    }
    world.finish();
}

fn event(step: u8, script: &mut Script<'_>) -> Event {
    // Mostly one of the youngest.
    let which = step >> 6;
    match step % 64 {
        32 => return Event::Incoming(FromVmm::Waiting),
        33 => return Event::CannotBe(script.u8() % 8, script.u8() % 8),
        _ => {}
    }
    match step % 32 {
        0..4 => Event::Pass(script.u16()),
        4..6 => Event::Pass(u16::from(script.u8())),
        6 => Event::Dies(which, None),
        7 => Event::Dies(which, Some(script.u8())),
        8 => Event::Says(which, said(script)),
        9..11 => Event::Beats(which),
        11 => Event::Claims(which, script.u64(), script.u32()),
        12 => Event::Settles(which, true),
        13..15 => Event::Settles(which, false),
        15..18 => about(DeviceNews::Connected),
        18 => about(DeviceNews::Lost(String::new())),
        19 => about(DeviceNews::Drained),
        20 => about(DeviceNews::Compatible),
        21 => about(DeviceNews::Incompatible(String::new())),
        22 => about(DeviceNews::Outstanding(samples(script))),
        23 => Event::Incoming(FromVmm::Started),
        24 => Event::Incoming(FromVmm::Paused),
        25 => Event::Incoming(FromVmm::Resumed),
        26 => Event::Incoming(ending(script)),
        27 => Event::VmmDies,
        28 => Event::Restart,
        29..31 => Event::Upgrade,
        _ => Event::Stop {
            force: script.u8() == 0,
        },
    }
}

fn about(news: DeviceNews) -> Event {
    Event::Incoming(FromVmm::Device(DeviceSlot::FIRST, news))
}

fn said(script: &mut Script<'_>) -> FromBackend {
    match script.u8() % 3 {
        0 => FromBackend::Serving,
        1 => FromBackend::Hangup,
        _ => FromBackend::Failed(failure()),
    }
}

fn ending(script: &mut Script<'_>) -> FromVmm {
    match script.u8() % 8 {
        0 => FromVmm::Ended(Ending::PowerOff),
        1 => FromVmm::Ended(Ending::Panic),
        2 => FromVmm::Failed(failure()),
        _ => FromVmm::Ended(Ending::Reboot),
    }
}

fn failure() -> Failure {
    Failure {
        about: None,
        reason: String::new(),
    }
}

fn samples(script: &mut Script<'_>) -> Vec<QueueSample> {
    let count = script.u8() % 4;
    let mut word = || u16::from(script.u8() % 4);
    (0..count)
        .map(|_| QueueSample {
            queue: word(),
            avail: word(),
            used: word(),
        })
        .collect()
}
