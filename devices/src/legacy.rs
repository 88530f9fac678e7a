// SPDX-License-Identifier: Apache-2.0
//! The few PC ports that kernels still expect: the ACPI sleep and reset registers, the keyboard
//! controller's reset line, and pvpanic.
//!
//! They run on vCPU threads.

use std::fmt;
use std::sync::Arc;

use crate::bus::BusDevice;
use crate::guest_event::{GuestEvent, GuestEvents};

/// The sleep control, sleep status and reset registers of a hardware-reduced ACPI machine
/// (ACPI 6.5 §4.8.4).
pub struct AcpiPm(Arc<dyn GuestEvents>);

impl AcpiPm {
    /// The number of ports.
    pub const PORTS: u64 = 3;
    /// The offset of the sleep control register.
    pub const SLEEP_CONTROL: u64 = 0;
    /// The offset of the sleep status register.
    pub const SLEEP_STATUS: u64 = 1;
    /// The offset of the reset register.
    pub const RESET: u64 = 2;
    /// The value for the reset register.
    pub const RESET_VALUE: u8 = 1;
    /// The SLP_TYP of soft-off, S5.
    pub const SLP_TYP_S5: u8 = 5;
    /// SLP_EN: enter the sleep state now.
    const SLP_EN: u8 = 1 << 5;

    /// Registers that report to `events`.
    pub fn new(events: Arc<dyn GuestEvents>) -> Self {
        Self(events)
    }
}

impl BusDevice for AcpiPm {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let [value] = *data else { return };
        let slp_typ = (value >> 2) & 7;
        match offset {
            Self::SLEEP_CONTROL if value & Self::SLP_EN != 0 && slp_typ == Self::SLP_TYP_S5 => {
                self.0.report(GuestEvent::PowerOff);
            }
            Self::RESET if value == Self::RESET_VALUE => self.0.report(GuestEvent::Reset),
            _ => {}
        }
    }
}

impl fmt::Debug for AcpiPm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcpiPm")
    }
}

/// The keyboard controller at port 0x60: no keyboard, only the reset line, which kernels without
/// ACPI use.
pub struct I8042(Arc<dyn GuestEvents>);

impl I8042 {
    /// The number of ports.
    pub const PORTS: u64 = 5;
    const COMMAND: u64 = 4;
    const CMD_RESET: u8 = 0xfe;

    /// A controller that reports to `events`.
    pub fn new(events: Arc<dyn GuestEvents>) -> Self {
        Self(events)
    }
}

impl BusDevice for I8042 {
    fn read(&self, _: u64, data: &mut [u8]) {
        // Status 0: the input buffer is empty, so the guest may write a command.
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if offset == Self::COMMAND && data == [Self::CMD_RESET] {
            self.0.report(GuestEvent::Reset);
        }
    }
}

impl fmt::Debug for I8042 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("I8042")
    }
}

/// pvpanic (QEMU docs/specs/pvpanic): one port in which a panicking kernel sets bit 0.
pub struct PvPanic(Arc<dyn GuestEvents>);

impl PvPanic {
    /// The number of ports.
    pub const PORTS: u64 = 1;
    const PANICKED: u8 = 1 << 0;

    /// A port that reports to `events`.
    pub fn new(events: Arc<dyn GuestEvents>) -> Self {
        Self(events)
    }
}

impl BusDevice for PvPanic {
    fn read(&self, _: u64, data: &mut [u8]) {
        // The supported events.
        data.fill(Self::PANICKED);
    }

    fn write(&self, _: u64, data: &[u8]) {
        if data.iter().any(|value| value & Self::PANICKED != 0) {
            self.0.report(GuestEvent::Panic);
        }
    }
}

impl fmt::Debug for PvPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PvPanic")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<GuestEvent>>);
    impl GuestEvents for Recorder {
        fn report(&self, event: GuestEvent) {
            self.0.lock().unwrap().push(event);
        }
    }

    fn written(device: impl FnOnce(Arc<dyn GuestEvents>) -> Box<dyn BusDevice>) -> Vec<(u64, u8)> {
        let recorder = Arc::new(Recorder::default());
        let device = device(recorder.clone());
        let mut reacted = Vec::new();
        for offset in 0..8 {
            for value in 0..=255 {
                device.write(offset, &[value, 0]);
                device.write(offset, &[]);
                recorder.0.lock().unwrap().clear();
                device.write(offset, &[value]);
                if !recorder.0.lock().unwrap().is_empty() {
                    reacted.push((offset, value));
                }
            }
        }
        reacted
    }

    #[test]
    fn acpi_reacts_to_s5_and_reset_alone() {
        let reacted = written(|events| Box::new(AcpiPm::new(events)));
        assert!(reacted.contains(&(0, 0x34)) && reacted.contains(&(2, 1)));
        assert!(reacted.iter().all(|&(offset, value)| match offset {
            0 => value & 0x3c == 0x34,
            2 => value == 1,
            _ => false,
        }));
    }

    #[test]
    fn keyboard_controller_reacts_to_the_reset_command_alone() {
        let reacted = written(|events| Box::new(I8042::new(events)));
        assert_eq!(reacted, [(4, 0xfe)]);
    }

    #[test]
    fn pvpanic_says_what_it_understands_and_reports_it() {
        let recorder = Arc::new(Recorder::default());
        let device = PvPanic::new(recorder.clone());
        let mut supported = [0];
        device.read(0, &mut supported);
        device.write(0, &[2]);
        assert!(recorder.0.lock().unwrap().is_empty());
        device.write(0, &supported);
        assert_eq!(*recorder.0.lock().unwrap(), [GuestEvent::Panic]);
    }
}
