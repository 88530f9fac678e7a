// SPDX-License-Identifier: Apache-2.0
//! The IOAPIC (Intel 82093AA datasheet; ICH9 §13.5 for the EOI register): 24 pins, each of which
//! sends a message to the local APICs, which KVM emulates in the kernel.
//!
//! Runs on vCPU threads (registers, EOI) and on the threads that drive a line.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;
use crate::interrupt::{InterruptLine, MsiMessage};
use crate::state::{StateError, check_count};

/// The number of pins.
pub const PINS: usize = 24;

/// The length of the register window in bytes.
pub const LEN_BYTES: u64 = 0x1000;

const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const IOEOI: u64 = 0x40;

const REG_ID: u8 = 0x00;
const REG_VERSION: u8 = 0x01;
const REG_ARBITRATION: u8 = 0x02;
const REG_REDIRECTION: u8 = 0x10;
const REG_REDIRECTION_LAST: u8 = REG_REDIRECTION + 2 * PINS_U8 - 1;
const PINS_U8: u8 = 24;

/// Version 0x20 (it has the EOI register), 24 entries.
const VERSION: u32 = ((PINS_U8 as u32 - 1) << 16) | 0x20;

/// The writable bits of the id.
const ID_MASK: u32 = 0x0f00_0000;

const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const READ_ONLY: u64 = DELIVERY_STATUS | REMOTE_IRR;
/// The writable bits of an entry: the low 17 bits and the destination.
const WRITABLE: u64 = (0xff << 56) | 0x1_ffff & !READ_ONLY;

/// The local APICs, to which the IOAPIC sends its messages. Called on vCPU threads and the main
/// thread; must not block.
pub trait LocalApics: Send + Sync {
    /// Delivers a message.
    fn send(&self, message: MsiMessage);

    /// Sets the message of each pin that is level-triggered (`None` for the others), so that KVM
    /// reports its EOI to [`IoApic::eoi`]. After an error the previous messages may still be in
    /// effect.
    fn watch_level_pins(&self, pins: &[Option<MsiMessage>; PINS]) -> io::Result<()>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    /// The redirection table entry.
    entry: u64,
    /// The level of the line, for a level-triggered pin.
    line: bool,
    /// An edge arrived while the pin was masked, and its message is not sent yet.
    edge: bool,
}

impl Pin {
    fn vector(&self) -> u8 {
        (self.entry & 0xff) as u8
    }

    fn is_level(&self) -> bool {
        self.entry & LEVEL != 0
    }

    fn is_masked(&self) -> bool {
        self.entry & MASKED != 0
    }

    /// The message of an entry (Intel SDM volume 3 §11.11).
    fn message(&self) -> MsiMessage {
        let (destination, logical) = (self.entry >> 56, (self.entry >> 11) & 1);
        let (delivery, level) = ((self.entry >> 8) & 7, (self.entry >> 15) & 1);
        let data = u64::from(self.vector()) | delivery << 8 | 1 << 14 | level << 15;
        MsiMessage {
            address: 0xfee0_0000 | destination << 12 | logical << 2,
            data: u32::try_from(data).unwrap_or(0),
        }
    }

    /// Whether a message must be sent now; if so, counts it as sent.
    fn take_due(&mut self) -> bool {
        if self.is_masked() {
            return false;
        }
        if self.is_level() {
            let due = self.line && self.entry & REMOTE_IRR == 0;
            if due {
                self.entry |= REMOTE_IRR;
            }
            return due;
        }
        std::mem::take(&mut self.edge)
    }
}

/// What the registers hold, and the levels of the lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApicState {
    selected: u8,
    id: u32,
    pins: Vec<Pin>,
}

#[derive(Debug)]
struct State {
    selected: u8,
    id: u32,
    pins: [Pin; PINS],
    watched: [Option<MsiMessage>; PINS],
}

/// The IOAPIC.
pub struct IoApic {
    apics: Arc<dyn LocalApics>,
    state: Mutex<State>,
}

impl fmt::Debug for IoApic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoApic")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl IoApic {
    /// An IOAPIC with every pin masked.
    pub fn new(apics: Arc<dyn LocalApics>) -> Self {
        let pin = Pin {
            entry: MASKED,
            line: false,
            edge: false,
        };
        let state = State {
            selected: 0,
            id: 0,
            pins: [pin; PINS],
            watched: [None; PINS],
        };
        Self {
            apics,
            state: Mutex::new(state),
        }
    }

    /// What the registers hold.
    pub fn save(&self) -> IoApicState {
        let state = self.lock();
        IoApicState {
            selected: state.selected,
            id: state.id,
            pins: state.pins.to_vec(),
        }
    }

    /// Sets what the registers hold, and sends what is due.
    pub fn restore(&self, saved: &IoApicState) -> Result<(), StateError> {
        check_count("pins", saved.pins.len(), PINS)?;
        let mut state = self.lock();
        state.selected = saved.selected;
        state.id = saved.id & ID_MASK;
        for (pin, saved) in state.pins.iter_mut().zip(&saved.pins) {
            *pin = Pin {
                entry: saved.entry & (WRITABLE | REMOTE_IRR),
                ..*saved
            };
            self.deliver(pin);
        }
        self.watch_level_pins(&mut state);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the level of a line. A rising edge triggers an edge-triggered pin.
    pub fn set_line(&self, pin: usize, high: bool) {
        if let Some(pin) = self.lock().pins.get_mut(pin) {
            self.drive(pin, high);
        }
    }

    /// Raises a low line and lowers it again, under one lock: another thread's pulse in between
    /// would find the line high and make no edge.
    fn pulse(&self, pin: usize) {
        if let Some(pin) = self.lock().pins.get_mut(pin) {
            let level = pin.line;
            self.drive(pin, true);
            self.drive(pin, level);
        }
    }

    /// Handles a local APIC's EOI for this vector.
    pub fn eoi(&self, vector: u8) {
        let mut state = self.lock();
        for pin in state
            .pins
            .iter_mut()
            .filter(|pin| pin.is_level() && pin.vector() == vector)
        {
            pin.entry &= !REMOTE_IRR;
            self.deliver(pin);
        }
    }

    /// [`Self::set_line`] under the lock.
    fn drive(&self, pin: &mut Pin, high: bool) {
        pin.edge |= high && !pin.line && !pin.is_level();
        pin.line = high;
        self.deliver(pin);
    }

    fn deliver(&self, pin: &mut Pin) {
        if pin.take_due() {
            self.apics.send(pin.message());
        }
    }

    fn read_register(&self, state: &State) -> u32 {
        match state.selected {
            REG_ID | REG_ARBITRATION => state.id,
            REG_VERSION => VERSION,
            register @ REG_REDIRECTION..=REG_REDIRECTION_LAST => {
                let entry = state.pins[usize::from((register - REG_REDIRECTION) / 2)].entry;
                let half = if register % 2 == 0 {
                    entry
                } else {
                    entry >> 32
                };
                (half & 0xffff_ffff) as u32
            }
            _ => 0,
        }
    }

    fn write_register(&self, state: &mut State, value: u32) {
        match state.selected {
            REG_ID => state.id = value & ID_MASK,
            register @ REG_REDIRECTION..=REG_REDIRECTION_LAST => {
                let pin = &mut state.pins[usize::from((register - REG_REDIRECTION) / 2)];
                let (shift, kept) = if register % 2 == 0 {
                    (0, !0xffff_ffff)
                } else {
                    (32, 0xffff_ffff)
                };
                let written = pin.entry & kept | u64::from(value) << shift;
                pin.entry = written & WRITABLE | pin.entry & READ_ONLY;
                if !pin.is_level() {
                    // As on hardware, and Linux relies on it: switching a pin to edge-triggered
                    // clears Remote IRR.
                    pin.entry &= !REMOTE_IRR;
                }
                self.deliver(pin);
                self.watch_level_pins(state);
            }
            _ => {}
        }
    }

    /// Passes the messages of the level-triggered pins to the local APICs if they have changed: setting
    /// routes is slow, and drivers write each entry several times. After an error, the next write
    /// tries again.
    fn watch_level_pins(&self, state: &mut State) {
        let watched = state
            .pins
            .map(|pin| (pin.is_level() && !pin.is_masked()).then(|| pin.message()));
        if watched != state.watched {
            match self.apics.watch_level_pins(&watched) {
                Ok(()) => state.watched = watched,
                Err(error) => log::error!("cannot watch level-triggered interrupts: {error}"),
            }
        }
    }
}

impl BusDevice for IoApic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        let value = match offset {
            IOREGSEL => u32::from(state.selected),
            IOWIN => self.read_register(&state),
            _ => 0,
        };
        data.fill(0);
        let len = data.len().min(4);
        data[..len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(value) = data.try_into().map(u32::from_le_bytes) else {
            return; // "All accesses must be 32 bits wide" (§3.0)
        };
        match offset {
            IOREGSEL => self.lock().selected = (value & 0xff) as u8,
            IOWIN => self.write_register(&mut self.lock(), value),
            IOEOI => self.eoi((value & 0xff) as u8),
            _ => {}
        }
    }
}

/// One pin of an IOAPIC, for a device.
#[derive(Debug, Clone)]
pub struct IoApicPin {
    ioapic: Arc<IoApic>,
    pin: usize,
}

impl IoApicPin {
    /// Pin `pin`, counted from 0.
    pub fn new(ioapic: Arc<IoApic>, pin: usize) -> Self {
        Self { ioapic, pin }
    }
}

impl InterruptLine for IoApicPin {
    fn set(&self, high: bool) {
        self.ioapic.set_line(self.pin, high);
    }

    fn pulse(&self) {
        self.ioapic.pulse(self.pin);
    }
}

#[cfg(test)]
mod tests;
