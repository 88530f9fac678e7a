// SPDX-License-Identifier: Apache-2.0
//! The advanced interrupt architecture, in KVM: an IMSIC for each hart takes the devices' messages, an
//! APLIC turns the levels of wired devices into messages.
//!
//! KVM's order: the controller before its settings, which need all harts; routes and irqfds after its
//! completion.

use std::sync::Arc;

use devices::interrupt::{InterruptLine, MsiVectors};
use devices::pci::root::Slot;
use ipc::record::IrqchipChoice;
use kvm_bindings::{
    KVM_DEV_RISCV_AIA_ADDR_APLIC, KVM_DEV_RISCV_AIA_CONFIG_GROUP_BITS,
    KVM_DEV_RISCV_AIA_CONFIG_GUEST_BITS, KVM_DEV_RISCV_AIA_CONFIG_HART_BITS,
    KVM_DEV_RISCV_AIA_CONFIG_IDS, KVM_DEV_RISCV_AIA_CONFIG_SRCS, KVM_DEV_RISCV_AIA_CTRL_INIT,
    KVM_DEV_RISCV_AIA_GRP_ADDR, KVM_DEV_RISCV_AIA_GRP_CONFIG, KVM_DEV_RISCV_AIA_GRP_CTRL,
    kvm_create_device, kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
};
use kvm_ioctls::{DeviceFd, VcpuFd};
use log::{info, warn};

use super::layout::{self, source};
use crate::kvm::device;
use crate::kvm::{KvmError, MsiRoutes, Vm, failed};

/// The interrupt controllers.
#[derive(Debug)]
pub struct Irqchip {
    vm: Arc<Vm>,
    aia: DeviceFd,
}

impl Irqchip {
    /// Makes them, before the first hart.
    pub fn new(vm: &Arc<Vm>, choice: IrqchipChoice, _cpus: u8) -> Result<Self, KvmError> {
        match choice {
            IrqchipChoice::Auto | IrqchipChoice::Aia => {}
            other => return Err(KvmError::NoSuchIrqchip(other.name())),
        }
        vm.require(&Vm::MSI_CAPS)?;
        let mut wanted = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
            ..Default::default()
        };
        let created = vm.fd().create_device(&mut wanted);
        let aia = created.map_err(|source| KvmError::LacksIrqchip {
            irqchip: "aia",
            source,
        })?;
        info!("the interrupt controller is aia");
        Ok(Self {
            vm: Arc::clone(vm),
            aia,
        })
    }

    /// Completes them, when all harts exist.
    pub fn complete(&self, vcpus: &[VcpuFd]) -> Result<(), KvmError> {
        let harts = u64::try_from(vcpus.len()).unwrap_or(u64::MAX);
        let hart_bits = u64::BITS - harts.saturating_sub(1).leading_zeros();
        for (attr, value) in [
            (KVM_DEV_RISCV_AIA_CONFIG_SRCS, source::LAST),
            (KVM_DEV_RISCV_AIA_CONFIG_GROUP_BITS, 0),
            (KVM_DEV_RISCV_AIA_CONFIG_HART_BITS, hart_bits),
            (KVM_DEV_RISCV_AIA_CONFIG_GUEST_BITS, 0),
        ] {
            device::set(&self.aia, KVM_DEV_RISCV_AIA_GRP_CONFIG, attr, &value)
                .map_err(failed("configure the AIA"))?;
        }
        let place = |attr: u32, address: u64| {
            let placed = device::set(&self.aia, KVM_DEV_RISCV_AIA_GRP_ADDR, attr, &address);
            placed.map_err(failed("place the AIA"))
        };
        place(KVM_DEV_RISCV_AIA_ADDR_APLIC, layout::APLIC.base)?;
        for (attr, hart) in (1..).zip(0..harts) {
            place(attr, layout::IMSICS + hart * layout::IMSIC_BYTES)?;
        }
        let (group, attr) = (KVM_DEV_RISCV_AIA_GRP_CTRL, KVM_DEV_RISCV_AIA_CTRL_INIT);
        device::act(&self.aia, group, attr).map_err(failed("complete the AIA"))
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        "aia"
    }

    /// How many interrupts an IMSIC tells apart.
    pub(super) fn ids(&self) -> Result<u32, KvmError> {
        let (group, attr) = (KVM_DEV_RISCV_AIA_GRP_CONFIG, KVM_DEV_RISCV_AIA_CONFIG_IDS);
        device::get_u32(&self.aia, group, attr).map_err(failed("ask for the AIA's interrupts"))
    }

    /// A source of the APLIC as a line.
    pub(super) fn line(&self, source: u32) -> Arc<dyn InterruptLine> {
        Arc::new(AplicSource {
            vm: Arc::clone(&self.vm),
            source,
        })
    }

    /// The interrupt line of the PCI device in `slot`.
    pub fn pci_line(&self, slot: Slot) -> Arc<dyn InterruptLine> {
        self.line(source::pci(slot.number()))
    }

    /// `count` MSI-X vectors for the device in `slot`.
    pub fn vectors(&self, _slot: Slot, count: u16) -> Arc<dyn MsiVectors> {
        Arc::new(MsiRoutes::allocate(Arc::clone(&self.vm), None, count))
    }
}

/// A source of the APLIC.
struct AplicSource {
    vm: Arc<Vm>,
    source: u32,
}

impl InterruptLine for AplicSource {
    fn set(&self, high: bool) {
        if let Err(e) = self.vm.fd().set_irq_line(self.source, high) {
            warn!("cannot set the level of source {}: {e}", self.source);
        }
    }
}
