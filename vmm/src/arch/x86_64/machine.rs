// SPDX-License-Identifier: Apache-2.0
//! The board: which device answers where, and which pin it pulls.

use std::io;
use std::sync::Arc;

use devices::bus::{Bus, BusDevice, BusError};
use devices::guest_event::GuestEvents;
use devices::interrupt::{InterruptFabric, InterruptLine};
use devices::ioapic::{self, IoApic, IoApicPin};
use devices::legacy::{AcpiPm, I8042, PvPanic};
use devices::pci::host_bridge::HostBridge;
use devices::pci::root::{
    BusFull, CONFIG_PORT, CONFIG_PORTS, ConfigPorts, ECAM_LEN_BYTES, Ecam, PciRoot,
};
use devices::serial::{self, Serial};
use vmm_sys_util::eventfd::EventFd;

use super::layout;

/// The machine could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Two devices claim one address.
    #[error("cannot place a device")]
    Place(#[from] BusError),
    /// The PCI bus is full.
    #[error("cannot add a PCI device")]
    Pci(#[from] BusFull),
    /// COM1 could not be made.
    #[error("cannot make the serial port")]
    Serial(#[source] io::Error),
}

/// The machine as vCPUs and the main thread see it.
#[derive(Debug)]
pub struct Machine {
    ports: Bus,
    memory: Bus,
    ioapic: Arc<IoApic>,
    serial: Arc<Serial>,
    power_button: IoApicPin,
}

impl Machine {
    /// Puts the devices where [`layout`] says. `wake` wakes the main thread for the serial port.
    pub fn new(
        fabric: Arc<dyn InterruptFabric>,
        events: &Arc<dyn GuestEvents>,
        wake: &EventFd,
    ) -> Result<Self, MachineError> {
        let ioapic = Arc::new(IoApic::new(fabric));
        let (com1_port, com1_pin) = layout::COM1;
        let com1_line = Arc::new(IoApicPin::new(Arc::clone(&ioapic), com1_pin));
        let serial = Arc::new(Serial::new(com1_line, wake).map_err(MachineError::Serial)?);
        let mut root = PciRoot::default();
        root.add(Arc::new(HostBridge::default()))?;
        let root = Arc::new(root);

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
        ports.insert(
            CONFIG_PORT,
            CONFIG_PORTS,
            Arc::new(ConfigPorts::new(Arc::clone(&root))),
        )?;

        let memory = Bus::default();
        let ioapic_device = Arc::clone(&ioapic) as Arc<dyn BusDevice>;
        memory.insert(layout::IOAPIC, ioapic::LEN_BYTES, ioapic_device)?;
        memory.insert(layout::ECAM, ECAM_LEN_BYTES, Arc::new(Ecam(root)))?;

        let power_button = IoApicPin::new(Arc::clone(&ioapic), layout::GED_PIN);
        Ok(Self {
            ports,
            memory,
            ioapic,
            serial,
            power_button,
        })
    }

    /// Port I/O.
    pub fn ports(&self) -> &Bus {
        &self.ports
    }

    /// Memory-mapped I/O.
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

    /// A local APIC saw the end of an interrupt that the IOAPIC sent.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.ioapic.eoi(vector);
    }
}
