// SPDX-License-Identifier: Apache-2.0
//! The interrupt controllers, split: KVM has the local APICs, the vmm the IOAPIC. MSIs go to the
//! local APICs.

use std::io;
use std::sync::Arc;

use devices::interrupt::{InterruptLine, MsiMessage, MsiVectors, SharedLine};
use devices::ioapic::{IoApic, IoApicPin, LocalApics, PINS};
use devices::pci::root::Slot;
use ipc::irqchip;
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap};
use kvm_ioctls::VcpuFd;

use super::layout;
use crate::kvm::{Gsi, KvmError, MsiRoutes, Vm, failed};

/// The interrupt controllers.
#[derive(Debug)]
pub struct Irqchip {
    vm: Arc<Vm>,
    ioapic: Arc<IoApic>,
    /// The lines of PCI devices, which share pins.
    pci_lines: Vec<Arc<SharedLine>>,
}

impl Irqchip {
    /// Makes them, before the first vCPU. There is no choice.
    pub fn new(
        vm: &Arc<Vm>,
        choice: Option<irqchip::Irqchip>,
        _cpus: u8,
    ) -> Result<Self, KvmError> {
        if let Some(other) = choice.filter(|choice| *choice != irqchip::Irqchip::Ioapic) {
            return Err(KvmError::NoSuchIrqchip(other.name()));
        }
        vm.require(&Vm::MSI_CAPS)?;
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        cap.args[0] = PINS as u64;
        let enabled = vm.fd().enable_cap(&cap);
        enabled.map_err(failed("enable the split irqchip"))?;
        let pins = vm.allocate_gsis(PINS);
        let apics = Apics {
            vm: Arc::clone(vm),
            pins,
        };
        let ioapic = Arc::new(IoApic::new(Arc::new(apics)));
        let pin = |pin| Arc::new(IoApicPin::new(Arc::clone(&ioapic), pin));
        let pci_lines = layout::PCI_PINS.map(|number| Arc::new(SharedLine::new(pin(number))));
        Ok(Self {
            vm: Arc::clone(vm),
            pci_lines: pci_lines.collect(),
            ioapic,
        })
    }

    /// What to choose instead if this choice failed: nothing.
    pub fn fallback(_: Option<irqchip::Irqchip>, _: &KvmError) -> Option<irqchip::Irqchip> {
        None
    }

    /// Completes them, when all vCPUs exist.
    pub fn complete(&self, _vcpus: &[VcpuFd]) -> Result<(), KvmError> {
        Ok(())
    }

    /// Which they are.
    pub fn kind(&self) -> irqchip::Irqchip {
        irqchip::Irqchip::Ioapic
    }

    /// The IOAPIC.
    pub(super) fn ioapic(&self) -> &Arc<IoApic> {
        &self.ioapic
    }

    /// A pin of the IOAPIC.
    pub(super) fn pin(&self, pin: usize) -> Arc<dyn InterruptLine> {
        Arc::new(IoApicPin::new(Arc::clone(&self.ioapic), pin))
    }

    /// The interrupt line of the PCI device in `slot`.
    pub fn pci_line(&self, slot: Slot) -> Arc<dyn InterruptLine> {
        let index = layout::pci_pin(slot.number()) - layout::PCI_PINS.start;
        Arc::clone(&self.pci_lines[index]) as _
    }

    /// `count` MSI-X vectors for the device in `slot`.
    pub fn vectors(&self, _slot: Slot, count: u16) -> Arc<dyn MsiVectors> {
        Arc::new(MsiRoutes::allocate(Arc::clone(&self.vm), None, count))
    }
}

/// The local APICs in the kernel.
struct Apics {
    vm: Arc<Vm>,
    /// The GSI of pin 0; those of the others follow it. KVM reports the EOI of what is routed there.
    pins: Gsi,
}

impl LocalApics for Apics {
    fn send(&self, message: MsiMessage) {
        self.vm.send(message, None);
    }

    fn watch_level_pins(&self, pins: &[Option<MsiMessage>; PINS]) -> io::Result<()> {
        Ok(self.vm.route_all(self.pins, pins)?)
    }
}
