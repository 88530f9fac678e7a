// SPDX-License-Identifier: Apache-2.0
//! The board: the address of each device and its interrupt source. It has no power button: no stock
//! kernel has a driver for one, so machines get one that is a virtio device.

use std::io;
use std::sync::Arc;

use devices::bus::{Bus, BusDevice, BusError};
use devices::guest_event::GuestEvents;
use devices::legacy::PvPanic;
use devices::pci::root::{ECAM_LEN_BYTES, Ecam, PciRoot};
use devices::riscv::goldfish_rtc::GoldfishRtc;
use devices::serial::Serial;
use vmm_sys_util::eventfd::EventFd;

use super::irqchip::Irqchip;
use super::layout::{self, source};
use crate::memory::Region;

/// Why the board cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// Two devices claim the same address.
    #[error("cannot place a device")]
    Place(#[from] BusError),
    /// The serial port could not be made.
    #[error("cannot make the serial port")]
    Serial(#[source] io::Error),
}

/// The board as the vCPU threads and the main thread use it.
#[derive(Debug)]
pub struct Board {
    memory: Arc<Bus>,
    serial: Arc<Serial>,
}

impl Board {
    /// Places the devices as in [`layout`], and the PCI bus `root`, whose BARs are in `memory`. The
    /// serial port writes `wake` to wake the main thread.
    pub fn new(
        irqchip: &Irqchip,
        memory: Arc<Bus>,
        root: Arc<PciRoot>,
        events: &Arc<dyn GuestEvents>,
        wake: &EventFd,
    ) -> Result<Self, BoardError> {
        let serial = Serial::new(irqchip.line(source::UART), wake).map_err(BoardError::Serial)?;
        let serial = Arc::new(serial);
        let place = |region: Region, device: Arc<dyn BusDevice>| {
            memory.insert(region.base, region.len_bytes, device)
        };
        place(layout::UART, Arc::clone(&serial) as _)?;
        place(layout::RTC, Arc::new(GoldfishRtc::default()))?;
        place(layout::PVPANIC, Arc::new(PvPanic::new(Arc::clone(events))))?;
        if let Some(plic) = irqchip.plic() {
            place(layout::PLIC, plic)?;
        }
        memory.insert(layout::ECAM, ECAM_LEN_BYTES, Arc::new(Ecam(root)))?;
        Ok(Self { memory, serial })
    }

    /// The bus of memory-mapped I/O.
    pub fn memory(&self) -> &Bus {
        &self.memory
    }

    /// The serial port.
    pub fn serial(&self) -> Arc<Serial> {
        Arc::clone(&self.serial)
    }

    /// Presses the power button, which is not on this board.
    pub fn press_power_button(&self) {}
}
