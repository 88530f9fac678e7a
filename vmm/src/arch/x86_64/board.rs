// SPDX-License-Identifier: Apache-2.0
//! The board: the address of each device and its IOAPIC pin.

use std::io;
use std::sync::Arc;

use devices::bus::{Bus, BusDevice, BusError};
use devices::guest_event::GuestEvents;
use devices::interrupt::InterruptLine;
use devices::ioapic::{self, IoApic};
use devices::legacy::{AcpiPm, I8042, PvPanic};
use devices::pci::root::{CONFIG_PORT, CONFIG_PORTS, ConfigPorts, ECAM_LEN_BYTES, Ecam, PciRoot};
use devices::serial::{self, Serial};
use vmm_sys_util::eventfd::EventFd;

use super::irqchip::Irqchip;
use super::layout;

/// Why the board cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// Two devices claim the same address.
    #[error("cannot place a device")]
    Place(#[from] BusError),
    /// COM1 could not be made.
    #[error("cannot make the serial port")]
    Serial(#[source] io::Error),
}

/// The board as the vCPU threads and the main thread use it.
pub struct Board {
    ports: Bus,
    memory: Arc<Bus>,
    pub(super) ioapic: Arc<IoApic>,
    pub(super) serial: Arc<Serial>,
    pub(super) config_ports: Arc<ConfigPorts>,
    power_button: Arc<dyn InterruptLine>,
}

impl std::fmt::Debug for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Board")
            .field("ports", &self.ports)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
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
        let (com1_port, com1_pin) = layout::COM1;
        let serial = Serial::new(irqchip.pin(com1_pin), wake).map_err(BoardError::Serial)?;
        let serial = Arc::new(serial);

        let ports = Bus::default();
        let port = |base: u16, len: u64, device: Arc<dyn BusDevice>| {
            ports.insert(u64::from(base), len, device)
        };
        port(
            com1_port,
            serial::PORTS,
            Arc::clone(&serial) as Arc<dyn BusDevice>,
        )?;
        port(
            layout::I8042,
            I8042::PORTS,
            Arc::new(I8042::new(Arc::clone(events))),
        )?;
        port(
            layout::PVPANIC,
            PvPanic::PORTS,
            Arc::new(PvPanic::new(Arc::clone(events))),
        )?;
        port(
            layout::ACPI_PM,
            AcpiPm::PORTS,
            Arc::new(AcpiPm::new(Arc::clone(events))),
        )?;
        let config_ports = Arc::new(ConfigPorts::new(Arc::clone(&root)));
        let device = Arc::clone(&config_ports) as Arc<dyn BusDevice>;
        ports.insert(CONFIG_PORT, CONFIG_PORTS, device)?;

        let ioapic = Arc::clone(irqchip.ioapic());
        let ioapic_device = Arc::clone(&ioapic) as Arc<dyn BusDevice>;
        memory.insert(layout::IOAPIC, ioapic::LEN_BYTES, ioapic_device)?;
        memory.insert(layout::ECAM, ECAM_LEN_BYTES, Arc::new(Ecam(root)))?;

        Ok(Self {
            ports,
            memory,
            ioapic,
            serial,
            config_ports,
            power_button: irqchip.pin(layout::BUTTON_PIN),
        })
    }

    /// The bus of I/O ports.
    pub fn ports(&self) -> &Bus {
        &self.ports
    }

    /// The bus of memory-mapped I/O.
    pub fn memory(&self) -> &Bus {
        &self.memory
    }

    /// COM1.
    pub fn serial(&self) -> Arc<Serial> {
        Arc::clone(&self.serial)
    }

    /// Presses the power button.
    pub fn press_power_button(&self) {
        self.power_button.pulse();
    }

    /// Passes on a local APIC's EOI of an interrupt that the IOAPIC sent.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.ioapic.eoi(vector);
    }
}
