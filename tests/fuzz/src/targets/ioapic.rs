// SPDX-License-Identifier: Apache-2.0
//! The IOAPIC: registers, lines and ends of interrupt in any order. Every message goes to the local
//! APICs, and a level-triggered pin sends none while one of its own is in service.

use std::io;
use std::sync::{Arc, Mutex};

use devices::bus::BusDevice;
use devices::interrupt::MsiMessage;
use devices::ioapic::{IoApic, LocalApics, PINS};

use crate::script::Script;

const STEPS_MAX: usize = 400;

/// Local APICs that check and keep what they are sent.
#[derive(Default)]
pub(super) struct Apics {
    sent: Mutex<Vec<MsiMessage>>,
    watched: Mutex<usize>,
}

impl LocalApics for Apics {
    fn send(&self, message: MsiMessage) {
        assert_eq!(message.address & !0xf_ffff, 0xfee0_0000, "{message:x?}");
        self.sent.lock().unwrap().push(message);
    }
    fn watch_level_pins(&self, pins: &[Option<MsiMessage>; PINS]) -> io::Result<()> {
        *self.watched.lock().unwrap() = pins.iter().flatten().count();
        Ok(())
    }
}

pub(crate) fn run(data: &[u8]) {
    let apics = Arc::<Apics>::default();
    let ioapic = IoApic::new(Arc::clone(&apics) as _);
    let mut script = Script::new(data);
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        match step {
            0..0x40 => {
                let (at, mut access) = (u64::from(script.u8()), script.access());
                match step & 1 {
                    0 => ioapic.write(at, access.data()),
                    _ => ioapic.read(at, access.room()),
                }
            }
            // A register as a driver writes it.
            0x40..0x80 => {
                ioapic.write(0, &u32::from(script.u8() % 64).to_le_bytes());
                ioapic.write(0x10, &script.u32().to_le_bytes());
            }
            0x80..0xc0 => ioapic.set_line(usize::from(script.u8() % 32), step & 1 != 0),
            _ => ioapic.eoi(script.u8()),
        }
        // One end of interrupt may be that of every pin.
        let sent = std::mem::take(&mut *apics.sent.lock().unwrap());
        assert!(sent.len() <= PINS, "{} messages for one access", sent.len());
    }
    check_level(&ioapic, &apics);
}

/// A level-triggered pin, from whatever state: one message, none before its end, one after it.
fn check_level(ioapic: &IoApic, apics: &Apics) {
    const PIN: u8 = 5;
    const VECTOR: u8 = 0x77;
    let entry = |low: u32| {
        ioapic.write(0, &u32::from(0x10 + 2 * PIN).to_le_bytes());
        ioapic.write(0x10, &low.to_le_bytes());
    };
    for pin in 0..PINS {
        ioapic.set_line(pin, false);
    }
    let (masked, level) = (1 << 16, 1 << 15);
    entry(masked);
    entry(masked | level | u32::from(VECTOR));
    entry(level | u32::from(VECTOR));
    ioapic.set_line(usize::from(PIN), true);
    let count = || {
        let sent = std::mem::take(&mut *apics.sent.lock().unwrap());
        let ours = |message: &&MsiMessage| message.data & 0xff == u32::from(VECTOR);
        sent.iter().filter(ours).count()
    };
    assert_eq!(count(), 1);
    assert!(*apics.watched.lock().unwrap() > 0);
    ioapic.set_line(usize::from(PIN), true);
    assert_eq!(count(), 0, "sent again before its end");
    ioapic.eoi(VECTOR);
    assert_eq!(count(), 1, "the line is still up");
}
