// SPDX-License-Identifier: Apache-2.0
//! MSI-X of a running device: the table, the pending bits, masks, and calls that come meanwhile. No
//! call is ever lost: once everything is unmasked, what was pending has been sent.

use std::sync::Arc;

use devices::bus::Bus;
use devices::interrupt::MsiMessage;
use devices::pci::root::PciFunction;
use devices::testing::{BASE, FakeDevice, Guest, OFFERED, QUEUE_SIZES};
use devices::virtio::eventfd;

use crate::script::Script;

const TABLE: u64 = BASE + 0x8000;
const PENDING: u64 = BASE + 0xc000;
const VECTORS: u32 = 3;
const STEPS_MAX: usize = 400;

type Card = Guest<FakeDevice>;

pub(crate) fn run(data: &[u8]) {
    let card = Card::new(Arc::default());
    let memory = Arc::clone(&card.memory);
    card.enable();
    card.start(OFFERED, 64);
    let control = card.msix() + 2;
    let mut script = Script::new(data);
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        match step {
            0..0x60 => {
                let (mut access, at) = (script.access(), TABLE + u64::from(script.u8() % 56));
                match step & 1 {
                    0 => memory.write(at, access.data()),
                    _ => memory.read(at, access.room()),
                }
            }
            0x60..0x80 => {
                let at = PENDING + u64::from(script.u8() % 16);
                memory.read(at, script.access().room());
            }
            0x80..0xa0 => card.function.config_write(control, &[0, script.u8()]),
            0xa0..0xb0 => card.function.config_write(4, &[script.u8() | 2, 0]),
            0xb0..0xd0 => map(&memory, u16::from(step & 1), script.u16() % 5),
            _ => call(&card, usize::from(step & 1)),
        }
    }
    settle(&card, &memory, control);
}

fn map(memory: &Bus, queue: u16, vector: u16) {
    memory.write(BASE + 22, &queue.to_le_bytes());
    memory.write(BASE + 26, &vector.to_le_bytes());
}

fn call(card: &Card, queue: usize) {
    card.device
        .active(|active| card.wires.call(&active.queues[queue].events.call));
}

fn readable(card: &Card) -> [bool; QUEUE_SIZES.len()] {
    let mut readable = [false; QUEUE_SIZES.len()];
    card.device.active(|active| {
        for (queue, readable) in active.queues.iter().zip(&mut readable) {
            *readable = eventfd::is_readable(&queue.events.call);
        }
    });
    readable
}

/// Sets everything up anew behind masks and unmasks it: what was pending must come then.
fn settle(card: &Card, memory: &Bus, control: usize) {
    let mask = |masked: u8| {
        for vector in 0..VECTORS {
            memory.write(TABLE + 16 * u64::from(vector) + 12, &[masked, 0, 0, 0]);
        }
    };
    mask(1);
    let waits = readable(card);
    card.wires.take_sent();
    card.function.config_write(4, &[6, 0]);
    card.function.config_write(control, &[0, 0x80]);
    for vector in 0..VECTORS {
        let entry = TABLE + 16 * u64::from(vector);
        memory.write(entry, &0xfee0_0000_u64.to_le_bytes());
        memory.write(entry + 8, &(0x40 + vector).to_le_bytes());
    }
    for queue in [0, 1] {
        map(memory, queue, queue + 1);
    }
    assert_eq!(card.wires.take_sent(), [], "sent while masked");
    mask(0);
    let sent = card.wires.take_sent();
    for (queue, waits) in (0..).zip(waits) {
        let due = MsiMessage {
            address: 0xfee0_0000,
            data: 0x41 + queue,
        };
        assert_eq!(waits, sent.contains(&due), "queue {queue}: sent {sent:?}");
    }
    let mut pending = [0; 8];
    memory.read(PENDING, &mut pending);
    assert_eq!((pending, readable(card)), ([0; 8], [false; 2]), "left over");
}
