// SPDX-License-Identifier: Apache-2.0
//! The board: the address of each device and its IOAPIC pin.

use std::io;
use std::sync::Arc;

use devices::bus::{Bus, BusDevice, BusError};
use devices::guest_event::GuestEvents;
use devices::interrupt::InterruptLine;
use devices::ioapic::{self, IoApic, IoApicPin};
use devices::legacy::{AcpiPm, I8042, PvPanic};
use devices::pci::bar::Windows;
use devices::pci::host_bridge::HostBridge;
use devices::pci::root::{
    BusFull, CONFIG_PORT, CONFIG_PORTS, ConfigPorts, ECAM_LEN_BYTES, Ecam, PciRoot,
};
use devices::serial::{self, Serial};
use devices::virtio::device::VirtioDevice;
use devices::virtio::transport::pci::function::{FunctionError, PciContext, VirtioPci};
use devices::virtio::transport::pci::vector_count;
use devices::virtio::vhost_user::device::VhostUserDevice;
use vmm_sys_util::eventfd::EventFd;

use super::layout;
use crate::kvm::{DeviceVectors, Vm};

/// Why the machine cannot be assembled.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Two devices claim the same address.
    #[error("cannot place a device")]
    Place(#[from] BusError),
    /// The PCI bus is full.
    #[error("cannot add a PCI device")]
    Pci(#[from] BusFull),
    /// The BAR windows are invalid.
    #[error("cannot make windows for PCI devices")]
    Windows(#[source] vm_allocator::Error),
    /// A virtio device cannot become a PCI function.
    #[error("cannot put a virtio device on the PCI bus")]
    Function(#[from] FunctionError),
    /// COM1 could not be made.
    #[error("cannot make the serial port")]
    Serial(#[source] io::Error),
}

/// The machine as the vCPU threads and the main thread use it.
#[derive(Debug)]
pub struct Machine {
    ports: Bus,
    memory: Arc<Bus>,
    ioapic: Arc<IoApic>,
    serial: Arc<Serial>,
    power_button: IoApicPin,
}

impl Machine {
    /// Places the devices as in [`layout`], and `virtio` in the PCI slots after the host bridge,
    /// with their BARs in `bars_64` (first address and length). The serial port writes `wake` to
    /// wake the main thread.
    pub fn new(
        vm: &Arc<Vm>,
        events: &Arc<dyn GuestEvents>,
        wake: &EventFd,
        bars_64: (u64, u64),
        virtio: Vec<Arc<VhostUserDevice>>,
    ) -> Result<Self, MachineError> {
        let ioapic = Arc::new(IoApic::new(Arc::clone(vm) as _));
        let (com1_port, com1_pin) = layout::COM1;
        let com1_line = Arc::new(IoApicPin::new(Arc::clone(&ioapic), com1_pin));
        let serial = Arc::new(Serial::new(com1_line, wake).map_err(MachineError::Serial)?);
        let memory = Arc::new(Bus::default());
        let root = Arc::new(pci_bus(vm, &memory, bars_64, virtio)?);

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

/// The PCI bus: the host bridge, then the virtio devices in order.
fn pci_bus(
    vm: &Arc<Vm>,
    memory: &Arc<Bus>,
    bars_64: (u64, u64),
    virtio: Vec<Arc<VhostUserDevice>>,
) -> Result<PciRoot, MachineError> {
    let mut windows = Windows::new(layout::BARS_32, bars_64).map_err(MachineError::Windows)?;
    let mut root = PciRoot::default();
    root.add(Arc::new(HostBridge::default()))?;
    for device in virtio {
        let vectors = vector_count(device.queue_max_sizes().len());
        let vectors = u16::try_from(vectors).unwrap_or(u16::MAX);
        let context = PciContext {
            memory_space: Arc::clone(memory),
            doorbells: Arc::clone(vm) as _,
            interrupts: Arc::clone(vm) as _,
            vectors: Arc::new(DeviceVectors::allocate(Arc::clone(vm), vectors)),
        };
        root.add(Arc::new(VirtioPci::new(device, context, &mut windows)?))?;
    }
    Ok(root)
}
