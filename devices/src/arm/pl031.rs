// SPDX-License-Identifier: Apache-2.0
//! The real-time clock PL031 (Arm DDI 0224C): seconds since 1970, from which a guest sets its clock
//! when it starts. Its alarm never rings: no guest of a server waits for one.
//!
//! Runs on vCPU threads.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{answer, primecell_id, written};
use crate::bus::BusDevice;

/// The length of the register window in bytes.
pub const LEN_BYTES: u64 = 0x1000;

const DATA: u64 = 0x00;
const MATCH: u64 = 0x04;
const LOAD: u64 = 0x08;
const CONTROL: u64 = 0x0c;
const MASK: u64 = 0x10;
/// RTCCR: "on reads of this register the value returned is 1 when the RTC is enabled" (§3.3.4).
const ENABLED: u32 = 1;
const PART: [u8; 4] = [0x31, 0x10, 0x04, 0x00];

/// The clock.
#[derive(Debug, Default)]
pub struct Pl031 {
    /// What the guest's settings add to the host's time.
    offset: AtomicU32,
    alarm: AtomicU32,
    mask: AtomicU32,
}

/// What the registers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pl031State {
    offset: u32,
    alarm: u32,
    mask: u32,
}

impl Pl031 {
    /// What the registers hold.
    pub fn save(&self) -> Pl031State {
        Pl031State {
            offset: self.offset.load(Ordering::Relaxed),
            alarm: self.alarm.load(Ordering::Relaxed),
            mask: self.mask.load(Ordering::Relaxed),
        }
    }

    /// Sets what the registers hold.
    pub fn restore(&self, state: Pl031State) {
        self.offset.store(state.offset, Ordering::Relaxed);
        self.alarm.store(state.alarm, Ordering::Relaxed);
        self.mask.store(state.mask & 1, Ordering::Relaxed);
    }
}

/// The host's time in seconds since 1970, modulo 2³².
fn host_seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| (time.as_secs() & 0xffff_ffff) as u32)
}

impl BusDevice for Pl031 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            DATA => host_seconds().wrapping_add(self.offset.load(Ordering::Relaxed)),
            MATCH => self.alarm.load(Ordering::Relaxed),
            CONTROL => ENABLED,
            MASK => self.mask.load(Ordering::Relaxed),
            id => primecell_id(PART, id).map_or(0, u32::from),
        };
        answer(value, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(value) = written(data) else { return };
        match offset {
            MATCH => self.alarm.store(value, Ordering::Relaxed),
            LOAD => {
                let ahead = value.wrapping_sub(host_seconds());
                self.offset.store(ahead, Ordering::Relaxed);
            }
            MASK => self.mask.store(value & 1, Ordering::Relaxed),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(clock: &Pl031, offset: u64) -> u32 {
        let mut data = [0; 4];
        clock.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn clock_tells_the_time_and_keeps_what_the_guest_sets() {
        let clock = Pl031::default();
        let host = host_seconds();
        assert!((host..host + 60).contains(&read(&clock, DATA)));

        clock.write(LOAD, &1000_u32.to_le_bytes());

        assert!((1000..1060).contains(&read(&clock, DATA)));
        assert_eq!(read(&clock, CONTROL), 1);
    }

    #[test]
    fn driver_finds_the_part_and_the_cell() {
        let clock = Pl031::default();
        let ids: Vec<u32> = (0..8).map(|i| read(&clock, 0xfe0 + 4 * i)).collect();
        assert_eq!(ids, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn access_of_any_width_and_offset_does_no_harm() {
        let clock = Pl031::default();
        for offset in (0..0x40).chain(0xfd0..0x1000) {
            for len in 0..=8 {
                clock.write(offset, &vec![0xff; len]);
                clock.read(offset, &mut vec![0; len]);
            }
        }
    }
}
