// SPDX-License-Identifier: Apache-2.0
//! COM1, a 16550A (the registers are vm-superio's), and what lies between it and the host.
//!
//! A vCPU thread writes a byte into a buffer and goes on; the main thread carries the buffer to the
//! console and brings input back. A console that does not read costs the guest its oldest output,
//! never its time.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::BusDevice;
use crate::interrupt::InterruptLine;

/// The number of ports.
pub const PORTS: u64 = 8;
/// Output that waits for the console, in bytes; beyond it the oldest is dropped.
const OUTPUT_MAX_BYTES: usize = 64 << 10;

/// Output on its way to the console; shared by the vCPU threads and the main thread.
#[derive(Debug)]
struct Output {
    bytes: Mutex<VecDeque<u8>>,
    wake: EventFd,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// vm-superio's way out.
#[derive(Debug)]
struct Writer(Arc<Output>);

impl io::Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut bytes = self.0.lock();
        let was_empty = bytes.is_empty();
        bytes.extend(data);
        let excess = bytes.len().saturating_sub(OUTPUT_MAX_BYTES);
        bytes.drain(..excess);
        drop(bytes);
        // The main thread takes everything at once: only the first byte needs to wake it.
        if was_empty && !data.is_empty() {
            self.0.wake.write(1)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// vm-superio's interrupt line.
struct Line(Arc<dyn InterruptLine>);

impl Trigger for Line {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        self.0.pulse();
        Ok(())
    }
}

/// Wakes the main thread when the guest has read all its input and more is waiting.
struct InputDrained {
    waiting: AtomicBool,
    wake: EventFd,
}

impl SerialEvents for InputDrained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        if self.waiting.swap(false, Ordering::Relaxed) {
            // An eventfd that is full wakes as well.
            let _ = self.wake.write(1);
        }
    }
}

type Uart = vm_superio::Serial<Line, InputDrained, Writer>;

/// COM1.
pub struct Serial {
    uart: Mutex<Uart>,
    output: Arc<Output>,
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serial")
            .field("output", &self.output)
            .finish_non_exhaustive()
    }
}

impl Serial {
    /// A port that interrupts through `line` and writes to `wake` when there is something for the
    /// main thread to do: output to take, or room for input. `wake` must be non-blocking.
    pub fn new(line: Arc<dyn InterruptLine>, wake: &EventFd) -> io::Result<Self> {
        let bytes = Mutex::new(VecDeque::new());
        let output = Arc::new(Output {
            bytes,
            wake: wake.try_clone()?,
        });
        let events = InputDrained {
            waiting: AtomicBool::new(false),
            wake: wake.try_clone()?,
        };
        let uart = Uart::with_events(Line(line), events, Writer(Arc::clone(&output)));
        Ok(Self {
            uart: Mutex::new(uart),
            output,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Uart> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the output that waits, oldest byte first.
    pub fn take_output(&self) -> VecDeque<u8> {
        std::mem::take(&mut *self.output.lock())
    }

    /// Puts back output the console did not accept, in front of what has come since.
    pub fn return_output(&self, mut rest: VecDeque<u8>) {
        let mut bytes = self.output.lock();
        rest.append(&mut bytes);
        let excess = rest.len().saturating_sub(OUTPUT_MAX_BYTES);
        rest.drain(..excess);
        *bytes = rest;
    }

    /// How many bytes of input the port can take. If none, the main thread is woken once the guest
    /// has read what is there.
    pub fn input_room(&self) -> usize {
        let uart = self.lock();
        let room = uart.fifo_capacity();
        uart.events().waiting.store(room == 0, Ordering::Relaxed);
        room
    }

    /// Gives the guest input; returns how many bytes were taken.
    pub fn input(&self, data: &[u8]) -> usize {
        self.lock().enqueue_raw_bytes(data).unwrap_or(0)
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            *value = self.lock().read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let ([value], Ok(offset)) = (data, u8::try_from(offset)) {
            // Neither the line nor the buffer can refuse; there is nobody to tell.
            let _ = self.lock().write(offset, *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    #[derive(Default)]
    struct Counter(AtomicUsize);
    impl InterruptLine for Counter {
        fn pulse(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
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
    fn access_of_any_width_and_offset_does_no_harm() {
        let (serial, _, _) = serial();
        for offset in 0..=300 {
            for len in 0..=8 {
                serial.write(offset, &vec![0xff; len]);
                serial.read(offset, &mut vec![0; len]);
            }
        }
    }
}
