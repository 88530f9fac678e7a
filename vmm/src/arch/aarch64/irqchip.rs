// SPDX-License-Identifier: Apache-2.0
//! The interrupt controllers, all in KVM: a GICv3 whose ITS takes the devices' messages, or a GICv2,
//! which the hosts have that cannot virtualise a GICv3 (a GIC-400, as in the Raspberry Pi 5). A GICv2
//! takes no messages: shared interrupts stand for them, which a frame of the vmm names
//! ([`devices::arm::gicv2m`]).
//!
//! KVM's order (Documentation/virt/kvm/devices/arm-vgic-v3.rst, -v2.rst, -its.rst): the controller
//! before the first vCPU, its completion after the last one, routes and irqfds after that.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use devices::arm::gicv2m::Gicv2m;
use devices::interrupt::{InterruptLine, MsiMessage, MsiVectors};
use devices::pci::root::Slot;
use ipc::irqchip;
use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V2_ADDR_TYPE_CPU,
    KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION,
    kvm_create_device, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VcpuFd};
use log::{info, warn};
use vmm_sys_util::eventfd::EventFd;

use super::layout::{self, FIRST_SPI_ID, V2M_IDS, spi};
use crate::kvm::{KvmError, MsiRoutes, Vm, device, failed};

/// The most vCPUs of a GICv2: its registers have 8 bits for them.
const GICV2_CPUS_MAX: u8 = 8;
/// KVM_IRQ_LINE: the field of the kind of interrupt, and the kind "shared".
const IRQ_LINE_SPI: u32 = 1 << 24;

/// The version of the controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V3,
    V2,
}

/// The interrupt controllers.
#[derive(Debug)]
pub struct Irqchip {
    vm: Arc<Vm>,
    version: Version,
    gic: DeviceFd,
}

impl Irqchip {
    /// Makes them, before the first of `cpus` vCPUs: those chosen, or the first that the host has.
    pub fn new(vm: &Arc<Vm>, choice: Option<irqchip::Irqchip>, cpus: u8) -> Result<Self, KvmError> {
        vm.require(&Vm::MSI_CAPS)?;
        let (version, gic) = match choice {
            Some(irqchip::Irqchip::Gicv3) => {
                (Version::V3, create_v3(vm).map_err(lacking("gicv3"))?)
            }
            Some(irqchip::Irqchip::Gicv2) => {
                (Version::V2, create_v2(vm).map_err(lacking("gicv2"))?)
            }
            None => match create_v3(vm) {
                Ok(gic) => (Version::V3, gic),
                Err(_) => (Version::V2, create_v2(vm).map_err(lacking("gicv2"))?),
            },
            Some(other) => return Err(KvmError::NoSuchIrqchip(other.name())),
        };
        if version == Version::V2 && cpus > GICV2_CPUS_MAX {
            return Err(KvmError::CpusOfIrqchip {
                irqchip: "gicv2",
                max: GICV2_CPUS_MAX,
            });
        }
        let place = |attr: u32, address: u64| {
            device::set(&gic, KVM_DEV_ARM_VGIC_GRP_ADDR, attr, &address)
                .map_err(failed("place the GIC"))
        };
        match version {
            Version::V3 => {
                place(KVM_VGIC_V3_ADDR_TYPE_DIST, layout::GICD.base)?;
                // The number of redistributors, their address, and the index of the region.
                let region = u64::from(cpus) << 52 | layout::REDISTRIBUTORS;
                place(KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION, region)?;
            }
            Version::V2 => {
                place(KVM_VGIC_V2_ADDR_TYPE_DIST, layout::GICD.base)?;
                place(KVM_VGIC_V2_ADDR_TYPE_CPU, layout::GICC.base)?;
            }
        }
        info!("the interrupt controller is {}", version.kind().name());
        Ok(Self {
            vm: Arc::clone(vm),
            version,
            gic,
        })
    }

    /// What to choose instead if this choice failed: nothing, [`Self::new`] has tried all.
    pub fn fallback(_: Option<irqchip::Irqchip>, _: &KvmError) -> Option<irqchip::Irqchip> {
        None
    }

    /// Completes them, when all vCPUs exist.
    pub fn complete(&self, _vcpus: &[VcpuFd]) -> Result<(), KvmError> {
        let ids = u32::from(layout::IDS);
        device::set(&self.gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &ids)
            .map_err(failed("set the number of interrupts"))?;
        init(&self.gic).map_err(failed("complete the GIC"))?;
        if self.version == Version::V3 {
            let kind = kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS;
            let its = create(&self.vm, kind).map_err(failed("make an ITS"))?;
            let address = layout::ITS.base;
            device::set(
                &its,
                KVM_DEV_ARM_VGIC_GRP_ADDR,
                KVM_VGIC_ITS_ADDR_TYPE,
                &address,
            )
            .map_err(failed("place the ITS"))?;
            init(&its).map_err(failed("complete the ITS"))?;
        }
        Ok(())
    }

    /// Which it is.
    pub fn kind(&self) -> irqchip::Irqchip {
        self.version.kind()
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// The frame that names the interrupts which stand for messages, if there is one.
    pub(super) fn frame(&self) -> Option<Gicv2m> {
        (self.version == Version::V2).then_some(FRAME)
    }

    /// Shared interrupt `spi` as a line.
    pub(super) fn line(&self, spi: u16) -> Arc<dyn InterruptLine> {
        Arc::new(Spi {
            vm: Arc::clone(&self.vm),
            id: FIRST_SPI_ID + spi,
        })
    }

    /// The interrupt line of the PCI device in `slot`.
    pub fn pci_line(&self, slot: Slot) -> Arc<dyn InterruptLine> {
        self.line(spi::pci(slot.number()))
    }

    /// `count` MSI-X vectors for the device in `slot`.
    pub fn vectors(&self, slot: Slot, count: u16) -> Arc<dyn MsiVectors> {
        let vm = Arc::clone(&self.vm);
        match self.version {
            Version::V3 => Arc::new(MsiRoutes::allocate(vm, Some(slot.requester_id()), count)),
            Version::V2 => Arc::new(SpiVectors {
                vm,
                assigned: Mutex::default(),
            }),
        }
    }
}

const FRAME: Gicv2m = Gicv2m {
    base: layout::V2M.base,
    first: V2M_IDS.0,
    count: V2M_IDS.1,
};

impl Version {
    fn kind(self) -> irqchip::Irqchip {
        match self {
            Self::V3 => irqchip::Irqchip::Gicv3,
            Self::V2 => irqchip::Irqchip::Gicv2,
        }
    }
}

fn lacking(irqchip: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::LacksIrqchip { irqchip, source }
}

fn create_v3(vm: &Vm) -> Result<DeviceFd, kvm_ioctls::Error> {
    create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)
}

fn create_v2(vm: &Vm) -> Result<DeviceFd, kvm_ioctls::Error> {
    create(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2)
}

fn create(vm: &Vm, kind: u32) -> Result<DeviceFd, kvm_ioctls::Error> {
    let mut wanted = kvm_create_device {
        type_: kind,
        ..Default::default()
    };
    vm.fd().create_device(&mut wanted)
}

fn init(gic: &DeviceFd) -> Result<(), kvm_ioctls::Error> {
    device::act(gic, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT)
}

/// A shared interrupt.
struct Spi {
    vm: Arc<Vm>,
    id: u16,
}

impl InterruptLine for Spi {
    fn set(&self, high: bool) {
        let irq = IRQ_LINE_SPI | u32::from(self.id);
        if let Err(e) = self.vm.fd().set_irq_line(irq, high) {
            warn!("cannot set the level of interrupt {}: {e}", self.id);
        }
    }
}

/// The MSI-X vectors of a device on a GICv2: an irqfd raises the shared interrupt that the message
/// names. KVM's own table routes GSI n to shared interrupt n, so that no route ever changes.
struct SpiVectors {
    vm: Arc<Vm>,
    /// The GSI of each eventfd that is assigned to one.
    assigned: Mutex<BTreeMap<RawFd, u32>>,
}

impl SpiVectors {
    fn assigned(&self) -> MutexGuard<'_, BTreeMap<RawFd, u32>> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MsiVectors for SpiVectors {
    fn send(&self, message: MsiMessage) {
        // A guest can program a message of no interrupt; that only harms itself.
        if let Some(id) = FRAME.interrupt(message) {
            let vm = Arc::clone(&self.vm);
            Spi { vm, id }.pulse();
        }
    }

    fn assign(&self, _: u16, message: MsiMessage, call: &EventFd) -> io::Result<()> {
        let Some(id) = FRAME.interrupt(message) else {
            return Ok(());
        };
        let gsi = u32::from(id - FIRST_SPI_ID);
        self.vm.fd().register_irqfd(call, gsi)?;
        self.assigned().insert(call.as_raw_fd(), gsi);
        Ok(())
    }

    fn deassign(&self, _: u16, call: &EventFd) -> io::Result<()> {
        let mut assigned = self.assigned();
        if let Some(gsi) = assigned.get(&call.as_raw_fd()) {
            self.vm.fd().unregister_irqfd(call, *gsi)?;
            assigned.remove(&call.as_raw_fd());
        }
        Ok(())
    }
}
