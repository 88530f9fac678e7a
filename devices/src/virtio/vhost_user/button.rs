// SPDX-License-Identifier: Apache-2.0
//! The configuration space of a power button: a keyboard with one key (virtio 1.2 §5.8). The driver
//! writes what it asks for, then reads the answer. The vmm answers, on the vCPU's thread.

use std::sync::atomic::{AtomicU8, Ordering};

/// The length of `struct virtio_input_config` (§5.8.4).
pub(super) const CONFIG_LEN: usize = 136;
/// Its fields.
const SELECT: usize = 0;
const SUBSEL: usize = 1;
const SIZE: usize = 2;
const ANSWER: usize = 8;

/// What can be asked for (§5.8.4): name, serial number, ids, and the bits of a type of events.
const ID_NAME: u8 = 0x01;
const ID_SERIAL: u8 = 0x02;
const ID_DEVIDS: u8 = 0x03;
const EV_BITS: u8 = 0x11;

/// The name that the ACPI button and that of gpio-keys have, too.
const NAME: &[u8] = b"Power Button";
const SERIAL: &[u8] = b"bulkhead";
/// Bus type BUS_VIRTUAL, vendor, product and version (include/uapi/linux/input.h).
const IDS: [u8; 8] = [6, 0, 0, 0, 0, 0, 1, 0];
/// The type of keys, and the one key (include/uapi/linux/input-event-codes.h: EV_KEY, KEY_POWER).
const EV_KEY: u8 = 1;
const KEY_POWER: usize = 116;
const KEYS: [u8; KEY_POWER / 8 + 1] = {
    let mut bits = [0; KEY_POWER / 8 + 1];
    bits[KEY_POWER / 8] = 1 << (KEY_POWER % 8);
    bits
};

/// What the driver has asked for.
#[derive(Debug, Default)]
pub(super) struct Selected {
    select: AtomicU8,
    subsel: AtomicU8,
}

impl Selected {
    /// The question.
    pub(super) fn save(&self) -> [u8; 2] {
        [&self.select, &self.subsel].map(|field| field.load(Ordering::SeqCst))
    }

    /// Sets the question.
    pub(super) fn restore(&self, [select, subsel]: [u8; 2]) {
        self.select.store(select, Ordering::SeqCst);
        self.subsel.store(subsel, Ordering::SeqCst);
    }

    /// Writes to the space: only the question can be written.
    pub(super) fn write(&self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            match at {
                SELECT => self.select.store(*byte, Ordering::SeqCst),
                SUBSEL => self.subsel.store(*byte, Ordering::SeqCst),
                _ => {}
            }
        }
    }

    /// Reads the space: zeroes where there is no answer, and beyond it.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        let select = self.select.load(Ordering::SeqCst);
        let subsel = self.subsel.load(Ordering::SeqCst);
        let answer = answer(select, subsel);
        for (at, byte) in (offset..).zip(data) {
            *byte = match at {
                SELECT => select,
                SUBSEL => subsel,
                SIZE => u8::try_from(answer.len()).unwrap_or(0),
                ANSWER.. => answer.get(at - ANSWER).copied().unwrap_or(0),
                _ => 0,
            };
        }
    }
}

fn answer(select: u8, subsel: u8) -> &'static [u8] {
    match (select, subsel) {
        (ID_NAME, 0) => NAME,
        (ID_SERIAL, 0) => SERIAL,
        (ID_DEVIDS, 0) => &IDS,
        (EV_BITS, EV_KEY) => &KEYS,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(select: u8, subsel: u8) -> Vec<u8> {
        let selected = Selected::default();
        selected.write(0, &[select]);
        selected.write(1, &[subsel]);
        let mut space = [0xff; CONFIG_LEN + 4];
        selected.read(0, &mut space);
        let (head, rest) = space.split_at(ANSWER);
        let size = usize::from(head[SIZE]);
        assert_eq!(head, [select, subsel, head[SIZE], 0, 0, 0, 0, 0]);
        assert!(rest[size..].iter().all(|byte| *byte == 0));
        rest[..size].to_vec()
    }

    #[test]
    fn keyboard_has_one_key_and_says_so() {
        let keys = asked(0x11, 1);
        let set = |key: &usize| keys.get(key / 8).is_some_and(|b| b >> (key % 8) & 1 == 1);
        assert_eq!((0..1024).filter(set).collect::<Vec<_>>(), [116]);
        assert_eq!(asked(1, 0), b"Power Button");
        assert_eq!(asked(3, 0).len(), 8);
    }

    #[test]
    fn question_without_an_answer_has_size_zero() {
        for (select, subsel) in [(0, 0), (1, 1), (0x10, 0), (0x11, 2), (0x12, 0), (255, 255)] {
            assert!(asked(select, subsel).is_empty(), "{select} {subsel}");
        }
    }

    #[test]
    fn answer_and_what_is_beyond_the_space_cannot_be_written() {
        let selected = Selected::default();
        selected.write(0, &[1, 0, 77, 9, 9, 9, 9, 9, b'x']);
        selected.write(CONFIG_LEN, &[1, 2]);
        let mut space = [0; 12];
        selected.read(0, &mut space);
        assert_eq!(space, *b"\x01\0\x0c\0\0\0\0\0Powe");
    }
}
