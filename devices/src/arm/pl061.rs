// SPDX-License-Identifier: Apache-2.0
//! The GPIO controller PL061 (Arm DDI 0190B) with one wire: the power button, at line 3. The tables
//! describe it as a key, and the guest's driver for keys (gpio-keys) takes it from there.
//!
//! Runs on vCPU threads (registers) and the main thread (the button).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{answer, primecell_id, written};
use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;

/// The length of the register window in bytes.
pub const LEN_BYTES: u64 = 0x1000;
/// The line of the power button.
pub const BUTTON: u32 = 3;

/// The data register; bits 9 to 2 of its address select lines (§3.3.1).
const DATA_LAST: u64 = 0x3fc;
const DIRECTION: u64 = 0x400;
const SENSE: u64 = 0x404;
const BOTH_EDGES: u64 = 0x408;
const EVENT: u64 = 0x40c;
const ENABLE: u64 = 0x410;
const RAW_STATUS: u64 = 0x414;
const MASKED_STATUS: u64 = 0x418;
const CLEAR: u64 = 0x41c;
const ALTERNATE: u64 = 0x420;
const PART: [u8; 4] = [0x61, 0x10, 0x04, 0x00];

const BUTTON_BIT: u8 = 1 << BUTTON;

/// The registers, one bit for each line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pl061State {
    /// The levels of the lines.
    data: u8,
    direction: u8,
    /// Set: level-sensitive.
    sense: u8,
    both_edges: u8,
    /// Set: the rising edge, or the high level.
    event: u8,
    enable: u8,
    /// The edges seen and not cleared.
    edges: u8,
    alternate: u8,
    /// The level of the interrupt line, which is not part of what is saved.
    #[serde(skip)]
    raised: bool,
}

impl Pl061State {
    /// What asks for an interrupt, enabled or not (GPIORIS).
    fn raw_status(&self) -> u8 {
        let levels = !(self.data ^ self.event) & self.sense;
        levels | self.edges & !self.sense
    }

    fn set_input(&mut self, bit: u8, high: bool) {
        let before = self.data & bit != 0;
        if before == high {
            return;
        }
        self.data = if high {
            self.data | bit
        } else {
            self.data & !bit
        };
        let wanted = self.both_edges & bit != 0 || (self.event & bit != 0) == high;
        if wanted {
            self.edges |= bit;
        }
    }

    fn read(&mut self, offset: u64) -> u32 {
        let value = match offset {
            0..=DATA_LAST => {
                let selected = (offset >> 2 & 0xff) as u8;
                let value = self.data & selected;
                // The driver has seen the button down: a person's finger would leave it now.
                if value & BUTTON_BIT != 0 {
                    self.set_input(BUTTON_BIT, false);
                }
                value
            }
            DIRECTION => self.direction,
            SENSE => self.sense,
            BOTH_EDGES => self.both_edges,
            EVENT => self.event,
            ENABLE => self.enable,
            RAW_STATUS => self.raw_status(),
            MASKED_STATUS => self.raw_status() & self.enable,
            ALTERNATE => self.alternate,
            id => primecell_id(PART, id).unwrap_or(0),
        };
        u32::from(value)
    }

    fn write(&mut self, offset: u64, value: u8) {
        match offset {
            0..=DATA_LAST => {
                let selected = (offset >> 2 & 0xff) as u8 & self.direction;
                self.data = self.data & !selected | value & selected;
            }
            // The button's line cannot be driven by the guest.
            DIRECTION => self.direction = value & !BUTTON_BIT,
            SENSE => self.sense = value,
            BOTH_EDGES => self.both_edges = value,
            EVENT => self.event = value,
            ENABLE => self.enable = value,
            CLEAR => self.edges &= !value,
            ALTERNATE => self.alternate = value,
            _ => {}
        }
    }
}

/// The controller.
pub struct Pl061 {
    state: Mutex<Pl061State>,
    line: Arc<dyn InterruptLine>,
}

impl fmt::Debug for Pl061 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pl061")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Pl061 {
    /// A controller that interrupts by `line`.
    pub fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self {
            state: Mutex::default(),
            line,
        }
    }

    /// Presses the button. It is released when the driver has read that it is down. A button that is
    /// still down is released first, so that each press is an edge.
    pub fn press(&self) {
        self.access(|state| {
            state.set_input(BUTTON_BIT, false);
            state.set_input(BUTTON_BIT, true);
        });
    }

    /// What the registers hold.
    pub fn save(&self) -> Pl061State {
        self.lock().clone()
    }

    /// Sets what the registers hold, and drives the interrupt line.
    pub fn restore(&self, saved: &Pl061State) {
        self.access(|state| {
            *state = Pl061State {
                direction: saved.direction & !BUTTON_BIT,
                raised: state.raised,
                ..saved.clone()
            };
        });
    }

    /// Accesses the registers, then drives the interrupt line.
    fn access<R>(&self, what: impl FnOnce(&mut Pl061State) -> R) -> R {
        let mut state = self.lock();
        let result = what(&mut state);
        let raised = state.raw_status() & state.enable != 0;
        if raised != state.raised {
            state.raised = raised;
            self.line.set(raised);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, Pl061State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BusDevice for Pl061 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        answer(self.access(|state| state.read(offset)), data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        // Linux writes single bytes, other drivers words: the registers have 8 bits.
        let value = match data {
            [value] => Some(*value),
            word => written(word).map(|value| (value & 0xff) as u8),
        };
        if let Some(value) = value {
            self.access(|state| state.write(offset, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    struct Line(AtomicBool);
    impl InterruptLine for Line {
        fn set(&self, high: bool) {
            let before = self.0.swap(high, Ordering::SeqCst);
            assert_ne!(before, high, "told of a level that has not changed");
        }
    }

    /// A controller as gpio-keys leaves it: both edges of the button interrupt.
    fn watched() -> (Pl061, Arc<Line>) {
        let line = Arc::<Line>::default();
        let gpio = Pl061::new(line.clone());
        gpio.write(BOTH_EDGES, &[BUTTON_BIT]);
        gpio.write(ENABLE, &[BUTTON_BIT]);
        (gpio, line)
    }

    fn read(gpio: &Pl061, offset: u64) -> u8 {
        let mut data = [0];
        gpio.read(offset, &mut data);
        data[0]
    }

    fn button_address() -> u64 {
        u64::from(BUTTON_BIT) << 2
    }

    #[test]
    fn press_interrupts_is_read_and_ends_in_a_release_that_interrupts_too() {
        let (gpio, line) = watched();
        gpio.press();
        assert!(line.0.load(Ordering::SeqCst));
        assert_eq!(read(&gpio, MASKED_STATUS), BUTTON_BIT);
        gpio.write(CLEAR, &[BUTTON_BIT]);
        assert!(!line.0.load(Ordering::SeqCst));

        assert_eq!(read(&gpio, button_address()), BUTTON_BIT);

        assert!(line.0.load(Ordering::SeqCst));
        gpio.write(CLEAR, &[BUTTON_BIT]);
        assert_eq!(read(&gpio, button_address()), 0);
    }

    #[test]
    fn press_that_no_driver_saw_does_not_hide_the_next_one() {
        let (gpio, line) = watched();
        gpio.press();
        gpio.write(CLEAR, &[BUTTON_BIT]);
        gpio.press();
        assert!(line.0.load(Ordering::SeqCst));
        assert_eq!(read(&gpio, button_address()), BUTTON_BIT);
    }

    #[test]
    fn guest_cannot_drive_the_button() {
        let (gpio, _) = watched();
        gpio.write(DIRECTION, &[0xff]);
        gpio.write(DATA_LAST, &[0xff]);
        assert_eq!(read(&gpio, DATA_LAST), !BUTTON_BIT);
    }

    #[test]
    fn line_disabled_or_of_the_other_edge_is_quiet() {
        let line = Arc::<Line>::default();
        let gpio = Pl061::new(line.clone());
        gpio.press();
        gpio.write(CLEAR, &[0xff]);
        gpio.write(ENABLE, &[BUTTON_BIT]);
        gpio.write(EVENT, &[BUTTON_BIT]);
        // Falls: only the rising edge is wanted.
        assert_eq!(read(&gpio, button_address()), BUTTON_BIT);
        assert!(!line.0.load(Ordering::SeqCst));
    }

    #[test]
    fn access_of_any_width_and_offset_does_no_harm() {
        let (gpio, _) = watched();
        for offset in (0..0x440).chain(0xfd0..0x1000) {
            for len in 0..=8 {
                gpio.write(offset, &vec![0xff; len]);
                gpio.read(offset, &mut vec![0; len]);
            }
        }
    }

    #[test]
    fn controller_taken_over_interrupts_for_a_press_that_was_not_read() {
        let (gpio, _) = watched();
        gpio.press();
        let (next, line) = watched();

        next.restore(&gpio.save());

        assert!(line.0.load(Ordering::SeqCst));
        assert_eq!(read(&next, button_address()), BUTTON_BIT);
    }
}
