// SPDX-License-Identifier: Apache-2.0
//! The registers of a 16550A. Pure: the caller sends the bytes and drives the line.
//!
//! The line follows its causes, as on hardware: input that arrives while its interrupt is disabled
//! raises the line when the interrupt is enabled. (TI PC16550D, §8.0; transmission takes no time,
//! so the transmitter is always empty.)

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The most input buffered for the guest, in bytes. More than the 16 of the hardware: drivers read
/// until it is empty, which saves exits.
pub(super) const INPUT_MAX_BYTES: usize = 64;

/// Receive and transmit holding registers; divisor latch, low byte.
const DATA: u8 = 0;
/// Interrupt enable; divisor latch, high byte.
const IER: u8 = 1;
/// Interrupt identification when read, FIFO control when written.
const IIR_FCR: u8 = 2;
const LCR: u8 = 3;
const MCR: u8 = 4;
const LSR: u8 = 5;
const MSR: u8 = 6;
const SCR: u8 = 7;

const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTED: u8 = 1 << 1;
const IER_LINE_STATUS: u8 = 1 << 2;
const IER_VALID: u8 = 0x0f;

const IIR_NONE: u8 = 0x01;
const IIR_TRANSMITTED: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_CLEAR_INPUT: u8 = 1 << 1;

const LCR_DIVISOR: u8 = 1 << 7;

const MCR_DTR: u8 = 1 << 0;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;
const MCR_VALID: u8 = 0x1f;

const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_TRANSMITTER_EMPTY: u8 = 0x60;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;

/// The divisor for 9600 baud; it has no effect.
const DIVISOR: u16 = 12;

/// The registers and the input buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Uart {
    divisor: u16,
    ier: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    fifos: bool,
    overrun: bool,
    /// The transmitter became empty, and no interrupt identification has reported it.
    transmitted: bool,
    input: VecDeque<u8>,
}

impl Uart {
    /// The state after reset, with a peer that is ready.
    pub(super) fn new() -> Self {
        Self {
            divisor: DIVISOR,
            ier: 0,
            lcr: 0x03,
            mcr: MCR_OUT2,
            scr: 0,
            fifos: false,
            overrun: false,
            transmitted: false,
            input: VecDeque::with_capacity(INPUT_MAX_BYTES),
        }
    }

    /// The registers in this state, with as much input as they hold.
    pub(super) fn restored(state: &Self) -> Self {
        let mut uart = state.clone();
        uart.ier &= IER_VALID;
        uart.mcr &= MCR_VALID;
        uart.input.truncate(INPUT_MAX_BYTES);
        uart
    }

    /// Whether the line is high.
    pub(super) fn line(&self) -> bool {
        self.cause() != IIR_NONE
    }

    /// How many bytes of input it takes now; none in loopback mode.
    pub(super) fn input_room(&self) -> usize {
        match self.is_loop() {
            true => 0,
            false => INPUT_MAX_BYTES - self.input.len(),
        }
    }

    /// Takes as much input as there is room for; returns how much.
    pub(super) fn receive(&mut self, data: &[u8]) -> usize {
        let taken = self.input_room().min(data.len());
        self.input.extend(&data[..taken]);
        taken
    }

    /// A guest's read of a register.
    pub(super) fn read(&mut self, register: u8) -> u8 {
        let [low, high] = self.divisor.to_le_bytes();
        match register {
            DATA if self.is_divisor() => low,
            DATA => self.input.pop_front().unwrap_or(0),
            IER if self.is_divisor() => high,
            IER => self.ier,
            IIR_FCR => self.identify(),
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => self.line_status(),
            MSR => self.modem_status(),
            SCR => self.scr,
            _ => 0,
        }
    }

    /// A guest's write to a register; returns the byte to send, if any.
    pub(super) fn write(&mut self, register: u8, value: u8) -> Option<u8> {
        let [low, high] = self.divisor.to_le_bytes();
        match register {
            DATA if self.is_divisor() => self.divisor = u16::from_le_bytes([value, high]),
            DATA => return self.transmit(value),
            IER if self.is_divisor() => self.divisor = u16::from_le_bytes([low, value]),
            IER => {
                let switched_on = value & !self.ier & IER_TRANSMITTED != 0;
                self.ier = value & IER_VALID;
                // The transmitter is empty: report it as soon as its interrupt is enabled.
                self.transmitted |= switched_on;
            }
            IIR_FCR => {
                self.fifos = value & FCR_ENABLE != 0;
                if value & FCR_CLEAR_INPUT != 0 {
                    self.input.clear();
                }
            }
            LCR => self.lcr = value,
            MCR => self.mcr = value & MCR_VALID,
            SCR => self.scr = value,
            // The status registers are read-only.
            _ => {}
        }
        None
    }

    fn is_divisor(&self) -> bool {
        self.lcr & LCR_DIVISOR != 0
    }

    fn is_loop(&self) -> bool {
        self.mcr & MCR_LOOP != 0
    }

    fn transmit(&mut self, value: u8) -> Option<u8> {
        self.transmitted = true;
        if !self.is_loop() {
            return Some(value);
        }
        match self.input.len() < INPUT_MAX_BYTES {
            true => self.input.push_back(value),
            false => self.overrun = true,
        }
        None
    }

    /// The interrupt cause of highest priority.
    fn cause(&self) -> u8 {
        let enabled = |bit: u8| self.ier & bit != 0;
        if enabled(IER_LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && !self.input.is_empty() {
            IIR_RECEIVED
        } else if enabled(IER_TRANSMITTED) && self.transmitted {
            IIR_TRANSMITTED
        } else {
            IIR_NONE
        }
    }

    /// Reading the cause only clears it if it is the empty transmitter.
    fn identify(&mut self) -> u8 {
        let cause = self.cause();
        if cause == IIR_TRANSMITTED {
            self.transmitted = false;
        }
        match self.fifos {
            true => cause | IIR_FIFOS,
            false => cause,
        }
    }

    fn line_status(&mut self) -> u8 {
        let mut status = LSR_TRANSMITTER_EMPTY;
        if !self.input.is_empty() {
            status |= LSR_DATA;
        }
        if std::mem::take(&mut self.overrun) {
            status |= LSR_OVERRUN;
        }
        status
    }

    /// The peer is always ready; in loopback mode the port is its own peer.
    fn modem_status(&self) -> u8 {
        if !self.is_loop() {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        let wires = [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ];
        let connected = wires.iter().filter(|(from, _)| self.mcr & from != 0);
        connected.fold(0, |status, (_, to)| status | to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_that_came_while_the_interrupt_was_off_raises_the_line_when_it_is_on() {
        let mut uart = Uart::new();
        uart.receive(b"x");
        assert!(!uart.line());
        uart.write(IER, IER_RECEIVED);
        assert!(uart.line());
        assert_eq!(uart.read(IIR_FCR), IIR_RECEIVED);
        assert!(uart.line(), "until it is read");
        assert_eq!(uart.read(DATA), b'x');
        assert_eq!((uart.line(), uart.read(IIR_FCR)), (false, IIR_NONE));
    }

    #[test]
    fn causes_are_told_one_at_a_time_the_most_urgent_first() {
        let mut uart = Uart::new();
        uart.write(IER, IER_RECEIVED | IER_TRANSMITTED);
        uart.receive(b"x");
        assert_eq!(uart.read(IIR_FCR), IIR_RECEIVED);
        uart.read(DATA);
        assert_eq!(uart.read(IIR_FCR), IIR_TRANSMITTED);
        assert_eq!(uart.read(IIR_FCR), IIR_NONE);
    }

    #[test]
    fn transmitter_interrupts_when_switched_on_and_after_each_byte() {
        let mut uart = Uart::new();
        uart.write(IER, IER_TRANSMITTED);
        assert!(uart.line());
        uart.read(IIR_FCR);
        assert!(!uart.line());
        assert_eq!(uart.write(DATA, b'x'), Some(b'x'));
        assert!(uart.line());
        uart.write(IER, 0);
        assert!(!uart.line());
    }

    #[test]
    fn loop_keeps_bytes_inside_and_shows_the_modem_lines_as_they_are_set() {
        let mut uart = Uart::new();
        uart.write(MCR, MCR_LOOP | MCR_RTS | MCR_OUT2);
        assert_eq!(uart.read(MSR) & 0xf0, MSR_CTS | MSR_DCD);
        assert_eq!(uart.write(DATA, b'x'), None);
        assert_eq!((uart.receive(b"y"), uart.input_room()), (0, 0));
        assert_eq!(uart.read(DATA), b'x');
        for _ in 0..=INPUT_MAX_BYTES {
            uart.write(DATA, b'z');
        }
        assert_eq!(uart.read(LSR) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(uart.read(LSR) & LSR_OVERRUN, 0, "told once");
    }

    #[test]
    fn fifos_are_shown_when_enabled_and_input_is_cleared_when_asked() {
        let mut uart = Uart::new();
        uart.receive(b"x");
        uart.write(IIR_FCR, FCR_ENABLE | FCR_CLEAR_INPUT);
        assert_eq!(uart.read(IIR_FCR), IIR_FIFOS | IIR_NONE);
        assert_eq!(uart.read(LSR), LSR_TRANSMITTER_EMPTY);
    }

    #[test]
    fn divisor_is_behind_its_latch_and_scratch_keeps_anything() {
        let mut uart = Uart::new();
        uart.write(LCR, LCR_DIVISOR);
        uart.write(DATA, 0x34);
        uart.write(IER, 0x12);
        assert_eq!((uart.read(DATA), uart.read(IER)), (0x34, 0x12));
        uart.write(LCR, 0x03);
        assert_eq!((uart.read(DATA), uart.read(IER)), (0, 0));
        uart.write(SCR, 0xa5);
        assert_eq!(uart.read(SCR), 0xa5);
    }
}
