// SPDX-License-Identifier: Apache-2.0
//! What the driver is told of a press: `struct virtio_input_event` (virtio 1.2 §5.8.6), with the types
//! and codes of Linux (include/uapi/linux/input-event-codes.h).

/// The length of an event: type and code of two bytes each, a value of four.
pub const EVENT_BYTES: u32 = 8;

const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const SYN_REPORT: u16 = 0;
const KEY_POWER: u16 = 116;

/// The number of events of one press.
pub const PRESS_EVENTS: u16 = 4;

/// The events of one press: the key goes down and up again, each in a report of its own.
pub const PRESS: [[u8; EVENT_BYTES as usize]; PRESS_EVENTS as usize] = [
    event(EV_KEY, KEY_POWER, 1),
    event(EV_SYN, SYN_REPORT, 0),
    event(EV_KEY, KEY_POWER, 0),
    event(EV_SYN, SYN_REPORT, 0),
];

const fn event(kind: u16, code: u16, value: u32) -> [u8; EVENT_BYTES as usize] {
    let ([t0, t1], [c0, c1]) = (kind.to_le_bytes(), code.to_le_bytes());
    let [v0, v1, v2, v3] = value.to_le_bytes();
    [t0, t1, c0, c1, v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn press_is_key_116_down_and_up_with_a_report_after_each() {
        assert_eq!(PRESS[0], [1, 0, 116, 0, 1, 0, 0, 0]);
        assert_eq!(PRESS[2], [1, 0, 116, 0, 0, 0, 0, 0]);
        assert_eq!((PRESS[1], PRESS[3]), ([0; 8], [0; 8]));
    }
}
