// SPDX-License-Identifier: Apache-2.0
//! The real-time clock of the Goldfish platform (Android's GOLDFISH-VIRTUAL-HARDWARE, "goldfish_rtc"):
//! nanoseconds since 1970, from which a guest sets its clock when it starts. Its alarm never rings: no
//! guest of a server waits for one.
//!
//! Runs on vCPU threads.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;

/// The length of the register window in bytes.
pub const LEN_BYTES: u64 = 0x1000;

const TIME_LOW: u64 = 0x00;
const TIME_HIGH: u64 = 0x04;
const ALARM_LOW: u64 = 0x08;
const ALARM_HIGH: u64 = 0x0c;

/// What the registers hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoldfishRtcState {
    /// What the guest's settings add to the host's time, in nanoseconds.
    offset: u64,
    /// The time at the last read of its low half, whose high half the guest reads next.
    latched: u64,
    /// The high half of a time that the guest is setting: it writes the high half first.
    set_high: u32,
    alarm: u64,
}

/// The clock.
#[derive(Debug, Default)]
pub struct GoldfishRtc(Mutex<GoldfishRtcState>);

/// The host's time in nanoseconds since 1970.
fn host_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(0))
}

fn halves(value: u64) -> [u32; 2] {
    [(value & 0xffff_ffff) as u32, (value >> 32) as u32]
}

impl GoldfishRtc {
    /// What the registers hold.
    pub fn save(&self) -> GoldfishRtcState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets what the registers hold.
    pub fn restore(&self, state: GoldfishRtcState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

impl BusDevice for GoldfishRtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let value = match offset {
            TIME_LOW => {
                state.latched = host_ns().wrapping_add(state.offset);
                halves(state.latched)[0]
            }
            TIME_HIGH => halves(state.latched)[1],
            ALARM_LOW => halves(state.alarm)[0],
            ALARM_HIGH => halves(state.alarm)[1],
            _ => 0,
        };
        data.fill(0);
        let len = data.len().min(4);
        data[..len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return;
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match offset {
            TIME_HIGH => state.set_high = value,
            TIME_LOW => {
                let time = u64::from(state.set_high) << 32 | u64::from(value);
                state.offset = time.wrapping_sub(host_ns());
            }
            ALARM_LOW => state.alarm = state.alarm >> 32 << 32 | u64::from(value),
            ALARM_HIGH => state.alarm = state.alarm & 0xffff_ffff | u64::from(value) << 32,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(clock: &GoldfishRtc, offset: u64) -> u64 {
        let mut data = [0; 4];
        clock.read(offset, &mut data);
        u64::from(u32::from_le_bytes(data))
    }

    fn time(clock: &GoldfishRtc) -> u64 {
        let low = read(clock, TIME_LOW);
        low | read(clock, TIME_HIGH) << 32
    }

    #[test]
    fn clock_tells_the_time_and_keeps_what_the_guest_sets() {
        let (clock, second) = (GoldfishRtc::default(), 1_000_000_000);
        let host = host_ns();
        assert!((host..host + 60 * second).contains(&time(&clock)));

        clock.write(TIME_HIGH, &7_u32.to_le_bytes());
        clock.write(TIME_LOW, &5_u32.to_le_bytes());

        let set = 7 << 32 | 5;
        assert!((set..set + 60 * second).contains(&time(&clock)));
        let next = GoldfishRtc::default();
        next.restore(clock.save());
        assert!((set..set + 60 * second).contains(&time(&next)));
    }

    #[test]
    fn access_of_any_width_and_offset_does_no_harm() {
        let clock = GoldfishRtc::default();
        for offset in 0..0x40 {
            for len in 0..=8 {
                clock.write(offset, &vec![0xff; len]);
                clock.read(offset, &mut vec![0; len]);
            }
        }
    }
}
