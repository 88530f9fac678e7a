// SPDX-License-Identifier: Apache-2.0
//! COM1, a [16550A](uart), and its buffers to and from the host.
//!
//! A vCPU thread writes a byte into a buffer and continues; the main thread moves the buffer to the
//! console and brings input back. If the console does not read, the guest's oldest output is
//! dropped; the guest never waits.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;

mod uart;

use uart::Uart;

/// The number of ports.
pub const PORTS: u64 = 8;
/// The most output buffered for the console, in bytes; beyond it the oldest is dropped.
const OUTPUT_MAX_BYTES: usize = 64 << 10;

/// COM1.
pub struct Serial {
    port: Mutex<Port>,
    /// Output for the console. vCPU threads fill it, the main thread empties it.
    output: Mutex<Output>,
    wake: EventFd,
    line: Arc<dyn InterruptLine>,
}

/// The port's registers, its input, and the output that the console has not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    uart: Uart,
    output: Vec<u8>,
}

#[derive(Debug, Default)]
struct Output {
    bytes: VecDeque<u8>,
    /// The console is gone or is /dev/null: output is dropped and wakes no thread.
    closed: bool,
}

#[derive(Debug)]
struct Port {
    uart: Uart,
    /// The console has input, but the port had no room for it.
    input_waits: bool,
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Serial {
    /// A port that interrupts through `line` and writes to `wake` when it has output for the main
    /// thread or room for input again. `wake` must be non-blocking.
    pub fn new(line: Arc<dyn InterruptLine>, wake: &EventFd) -> io::Result<Self> {
        Ok(Self {
            port: Mutex::new(Port {
                uart: Uart::new(),
                input_waits: false,
            }),
            output: Mutex::default(),
            wake: wake.try_clone()?,
            line,
        })
    }

    /// What the port holds.
    pub fn save(&self) -> SerialState {
        SerialState {
            uart: lock(&self.port).uart.clone(),
            output: lock(&self.output).bytes.iter().copied().collect(),
        }
    }

    /// Sets what the port holds, and drives the line.
    pub fn restore(&self, state: &SerialState) {
        self.access(|uart| *uart = Uart::restored(&state.uart));
        self.return_output(state.output.iter().copied().collect());
        self.wake();
    }

    /// Takes the buffered output, oldest byte first.
    pub fn take_output(&self) -> VecDeque<u8> {
        std::mem::take(&mut lock(&self.output).bytes)
    }

    /// Puts back output that the console did not take, in front of newer output.
    pub fn return_output(&self, mut rest: VecDeque<u8>) {
        let mut output = lock(&self.output);
        rest.append(&mut output.bytes);
        output.bytes = newest(rest);
    }

    /// Drops output from now on, without waking the main thread.
    pub fn close_output(&self) {
        *lock(&self.output) = Output {
            bytes: VecDeque::new(),
            closed: true,
        };
    }

    /// How many bytes of input the port can take. If none, the port wakes the main thread once the
    /// guest has read all of its input.
    pub fn input_room(&self) -> usize {
        let mut port = lock(&self.port);
        let room = port.uart.input_room();
        port.input_waits = room == 0;
        room
    }

    /// Adds input for the guest; returns how many bytes the port took.
    pub fn input(&self, data: &[u8]) -> usize {
        self.access(|uart| uart.receive(data))
    }

    /// Accesses the UART, then drives the line and wakes the main thread as needed.
    fn access<R>(&self, what: impl FnOnce(&mut Uart) -> R) -> R {
        let mut port = lock(&self.port);
        let was_high = port.uart.line();
        let result = what(&mut port.uart);
        let is_high = port.uart.line();
        // Under the lock, so that the line's last level is the UART's.
        if was_high != is_high {
            self.line.set(is_high);
        }
        let drained = port.input_waits && port.uart.input_room() == uart::INPUT_MAX_BYTES;
        port.input_waits &= !drained;
        drop(port);
        if drained {
            self.wake();
        }
        result
    }

    fn send(&self, byte: u8) {
        let mut output = lock(&self.output);
        if output.closed {
            return;
        }
        // The main thread takes all output at once, so only the first byte must wake it.
        let is_first = output.bytes.is_empty();
        output.bytes.push_back(byte);
        if output.bytes.len() > OUTPUT_MAX_BYTES {
            output.bytes.pop_front();
        }
        drop(output);
        if is_first {
            self.wake();
        }
    }

    fn wake(&self) {
        // A full eventfd wakes as well.
        let _ = self.wake.write(1);
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            *value = self.access(|uart| uart.read(offset));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let ([value], Ok(offset)) = (data, u8::try_from(offset))
            && let Some(byte) = self.access(|uart| uart.write(offset, *value))
        {
            self.send(byte);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn newest(mut bytes: VecDeque<u8>) -> VecDeque<u8> {
    let excess = bytes.len().saturating_sub(OUTPUT_MAX_BYTES);
    bytes.drain(..excess);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[derive(Default)]
    struct Counter(AtomicUsize);
    impl InterruptLine for Counter {
        fn set(&self, high: bool) {
            self.0.fetch_add(usize::from(high), Ordering::Relaxed);
        }
    }

    fn serial() -> (Serial, EventFd, Arc<Counter>) {
        let wake = EventFd::new(EFD_NONBLOCK).unwrap();
        let counter = Arc::new(Counter::default());
        (Serial::new(counter.clone(), &wake).unwrap(), wake, counter)
    }

    #[test]
    fn output_wakes_the_main_thread_once_per_burst() {
        let (serial, wake, _) = serial();
        for byte in b"hello" {
            serial.write(0, &[*byte]);
        }
        assert_eq!(wake.read().unwrap(), 1);
        assert_eq!(serial.take_output(), b"hello");
        serial.write(0, b"!");
        assert_eq!(wake.read().unwrap(), 1);
    }

    #[test]
    fn output_returned_comes_before_what_followed() {
        let (serial, _, _) = serial();
        serial.write(0, b"a");
        let taken = serial.take_output();
        serial.write(0, b"b");
        serial.return_output(taken);
        assert_eq!(serial.take_output(), b"ab");
    }

    #[test]
    fn output_nobody_reads_keeps_the_newest_and_stays_bounded() {
        let (serial, _, _) = serial();
        for i in 0..OUTPUT_MAX_BYTES + 10 {
            serial.write(0, &[u8::try_from(i % 251).unwrap()]);
        }
        let kept = serial.take_output();
        assert_eq!(kept.len(), OUTPUT_MAX_BYTES);
        assert_eq!(kept[0], 10);
    }

    #[test]
    fn input_interrupts_and_reads_back_in_order() {
        let (serial, _, counter) = serial();
        serial.write(1, &[1]);
        assert_eq!(serial.input(b"xy"), 2);
        assert!(counter.0.load(Ordering::Relaxed) > 0);
        let mut data = [0];
        serial.read(0, &mut data);
        assert_eq!(&data, b"x");
    }

    #[test]
    fn input_beyond_the_fifo_waits_until_the_guest_has_read() {
        let (serial, wake, _) = serial();
        let taken = serial.input(&[b'x'; 1000]);
        assert_eq!((serial.input_room(), serial.input(b"x")), (0, 0));
        assert!(wake.read().is_err());
        for _ in 0..taken {
            serial.read(0, &mut [0]);
        }
        assert_eq!(wake.read().unwrap(), 1);
        assert_eq!(serial.input_room(), taken);
    }

    #[test]
    fn input_that_came_while_interrupts_were_off_interrupts_once_they_are_on() {
        let (serial, _, counter) = serial();
        serial.write(1, &[1]);
        serial.write(1, &[0]);
        serial.input(b"x");
        assert_eq!(counter.0.load(Ordering::Relaxed), 0);
        serial.write(1, &[1]);
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn access_of_any_width_and_offset_does_no_harm() {
        let (serial, _, _) = serial();
        for offset in 0..=300 {
            for len in 0..=8 {
                serial.write(offset, &vec![0xff; len]);
                serial.read(offset, &mut vec![0; len]);
            }
        }
    }

    #[test]
    fn port_taken_over_keeps_input_output_and_the_line() {
        let (serial, _, _) = serial();
        serial.write(1, &[1]);
        serial.input(b"in");
        serial.write(0, b"o");
        let (next, wake, counter) = super::tests::serial();

        next.restore(&serial.save());

        assert_eq!(next.save(), serial.save());
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
        assert!(wake.read().is_ok());
        assert_eq!(next.take_output(), b"o");
        let mut data = [0];
        next.read(0, &mut data);
        assert_eq!(&data, b"i");
    }
}
