// SPDX-License-Identifier: Apache-2.0
//! A vmm that says anything at any time: every message there is, about devices that are there and not,
//! with and without a descriptor, and listens to nothing. Its kernel command line says how much:
//! `messages=COUNT seed=N`.

use std::os::fd::AsFd;

use ipc::control::{Channel, DeviceNews, FromVmm, QueueSample};
use ipc::fd;
use ipc::irqchip::Irqchip;
use ipc::record::{Record as _, VmmRecord};
use ipc::slot::DeviceSlot;
use loadgen::random::Random;
use nix::poll::{PollTimeout, poll};

/// The longest text in a message, in bytes; more would not fit.
const TEXT_MAX: u64 = 3000;

/// How many messages are to be sent, and from which seed; `None` of any other kernel command line.
pub(crate) fn requested() -> Option<(u64, u64)> {
    let inherited = fd::claim(fd::RECORD).ok()?;
    let record = VmmRecord::read(inherited.try_clone().ok()?).ok()?;
    // It stays where it is, for whoever tries to write to it.
    std::mem::forget(inherited);
    let value = |key: &str| {
        let mut words = record.cmdline.split(' ');
        words.find_map(|word| word.strip_prefix(key)?.parse().ok())
    };
    Some((value("messages=")?, value("seed=").unwrap_or(0)))
}

/// Sends them, each as soon as there is room.
pub(crate) fn send(control: &Channel, count: u64, seed: u64) {
    let mut random = Random::new(seed);
    for _ in 0..count {
        let message = any(&mut random);
        let with_descriptor = random.below(4) == 0;
        loop {
            let sent = match with_descriptor {
                true => control.send_with(&message, control.as_fd()),
                false => control.send(&message),
            };
            if sent.is_ok() {
                break;
            }
            let _ = poll(&mut [], PollTimeout::from(1_u8));
        }
    }
}

/// Any message but those that say goodbye.
fn any(random: &mut Random) -> FromVmm {
    match random.below(10) {
        0 => FromVmm::Started,
        1 => FromVmm::Paused,
        2 => FromVmm::Resumed,
        3 => FromVmm::Irqchip(Irqchip::Plic),
        4 => FromVmm::Saved,
        5 => FromVmm::NotSaved("no".into()),
        _ => {
            let highest = if random.below(4) == 0 { 24 } else { 3 };
            let nth = usize::try_from(random.below(highest)).unwrap_or(0);
            match DeviceSlot::all().nth(nth) {
                Some(slot) => FromVmm::Device(slot, news(random)),
                None => FromVmm::Started,
            }
        }
    }
}

fn news(random: &mut Random) -> DeviceNews {
    match random.below(9) {
        0 => DeviceNews::Connected,
        1 => DeviceNews::Running,
        2 => DeviceNews::Drained,
        3 => DeviceNews::Compatible,
        4 => DeviceNews::Incompatible(text(random)),
        5 => {
            let queues = random.below(40);
            DeviceNews::Outstanding((0..queues).map(|_| sample(random)).collect())
        }
        6 => DeviceNews::Lost(text(random)),
        7 => DeviceNews::Failed(text(random)),
        _ => DeviceNews::Guest(text(random)),
    }
}

fn sample(random: &mut Random) -> QueueSample {
    let mut word = || u16::try_from(random.below(1 << 16)).unwrap_or(0);
    QueueSample {
        queue: word(),
        avail: word(),
        used: word(),
    }
}

/// Letters, and what would end a line or command a terminal.
pub(crate) fn text(random: &mut Random) -> String {
    let len = match random.below(16) {
        0 => random.below(TEXT_MAX / 6),
        _ => random.below(16),
    };
    let letters = ['x', '\n', '\u{1b}', '"', '\u{202e}', '\0'];
    let letter = |random: &mut Random| letters[usize::try_from(random.below(6)).unwrap_or(0)];
    (0..len).map(|_| letter(random)).collect()
}
