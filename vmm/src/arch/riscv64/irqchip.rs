// SPDX-License-Identifier: Apache-2.0
//! The interrupt controllers: the advanced interrupt architecture in KVM ([`aia`](super::aia)), or,
//! where the host has none for guests, a PLIC in the vmm ([`devices::riscv::plic`]), whose devices
//! interrupt by their lines. KVM's irqfds are of no use there: it takes them and never delivers.

use std::io;
use std::sync::{Arc, OnceLock};

use devices::interrupt::{InterruptLine, MsiMessage, MsiVectors};
use devices::pci::root::Slot;
use devices::riscv::plic::{HartInterrupts, Plic, PlicSource};
use ipc::irqchip;
use kvm_ioctls::{DeviceFd, VcpuFd};
use log::info;
use vmm_sys_util::eventfd::EventFd;

use super::aia::{self, AplicSource};
use super::layout::source;
use crate::kvm::hart::Harts;
use crate::kvm::{KvmError, MsiRoutes, Vm, failed};

/// The interrupt controllers.
#[derive(Debug)]
pub struct Irqchip {
    vm: Arc<Vm>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Aia(DeviceFd),
    Plic(Arc<Plic>, Arc<LateHarts>),
}

impl Irqchip {
    /// Makes them, before the first of `cpus` harts: those chosen, or the first that the host has.
    pub fn new(vm: &Arc<Vm>, choice: Option<irqchip::Irqchip>, cpus: u8) -> Result<Self, KvmError> {
        let kind = match choice {
            Some(irqchip::Irqchip::Aia) => Kind::Aia(aia::create(vm).map_err(lacks_aia)?),
            Some(irqchip::Irqchip::Plic) => plic(cpus),
            None => match aia::create(vm) {
                Ok(aia) => Kind::Aia(aia),
                Err(_) => plic(cpus),
            },
            Some(other) => return Err(KvmError::NoSuchIrqchip(other.name())),
        };
        if let Kind::Aia(_) = kind {
            vm.require(&Vm::MSI_CAPS)?;
        }
        let irqchip = Self {
            vm: Arc::clone(vm),
            kind,
        };
        info!("the interrupt controller is {}", irqchip.kind().name());
        Ok(irqchip)
    }

    /// What to choose instead if this choice failed: some hosts announce an AIA that they cannot
    /// complete, and the VM that has tried is lost.
    pub fn fallback(
        choice: Option<irqchip::Irqchip>,
        error: &KvmError,
    ) -> Option<irqchip::Irqchip> {
        let lacks = matches!(error, KvmError::LacksIrqchip { irqchip: AIA, .. });
        (choice.is_none() && lacks).then_some(irqchip::Irqchip::Plic)
    }

    /// Completes them, when all harts exist.
    pub fn complete(&self, vcpus: &[VcpuFd]) -> Result<(), KvmError> {
        match &self.kind {
            Kind::Aia(aia) => {
                let harts = u64::try_from(vcpus.len()).unwrap_or(u64::MAX);
                aia::complete(aia, harts).map_err(lacks_aia)
            }
            Kind::Plic(_, late) => {
                let harts = Harts::new(vcpus).map_err(|e| {
                    let errno = e.raw_os_error().unwrap_or(libc::EMFILE);
                    failed("duplicate a hart's descriptor")(kvm_ioctls::Error::new(errno))
                })?;
                // It is completed once.
                let _ = late.0.set(harts);
                Ok(())
            }
        }
    }

    /// Which it is.
    pub fn kind(&self) -> irqchip::Irqchip {
        match self.kind {
            Kind::Aia(_) => irqchip::Irqchip::Aia,
            Kind::Plic(..) => irqchip::Irqchip::Plic,
        }
    }

    /// The PLIC, if there is one: it has registers.
    pub(super) fn plic(&self) -> Option<Arc<Plic>> {
        match &self.kind {
            Kind::Aia(_) => None,
            Kind::Plic(plic, _) => Some(Arc::clone(plic)),
        }
    }

    /// How many interrupts an IMSIC tells apart; `None` if there are none.
    pub(super) fn ids(&self) -> Result<Option<u32>, KvmError> {
        match &self.kind {
            Kind::Aia(aia) => {
                let ids = aia::ids(aia).map_err(failed("ask for the AIA's interrupts"))?;
                Ok(Some(ids))
            }
            Kind::Plic(..) => Ok(None),
        }
    }

    /// A source of the controller of wired devices as a line.
    pub(super) fn line(&self, source: u32) -> Arc<dyn InterruptLine> {
        match &self.kind {
            Kind::Aia(_) => Arc::new(AplicSource {
                vm: Arc::clone(&self.vm),
                source,
            }),
            Kind::Plic(plic, _) => Arc::new(PlicSource::new(Arc::clone(plic), source)),
        }
    }

    /// The interrupt line of the PCI device in `slot`.
    pub fn pci_line(&self, slot: Slot) -> Arc<dyn InterruptLine> {
        self.line(source::pci(slot.number()))
    }

    /// `count` MSI-X vectors for the device in `slot`.
    pub fn vectors(&self, _slot: Slot, count: u16) -> Arc<dyn MsiVectors> {
        match self.kind {
            Kind::Aia(_) => Arc::new(MsiRoutes::allocate(Arc::clone(&self.vm), None, count)),
            Kind::Plic(..) => Arc::new(NoMessages),
        }
    }
}

const AIA: &str = "aia";

fn lacks_aia(source: kvm_ioctls::Error) -> KvmError {
    KvmError::LacksIrqchip {
        irqchip: AIA,
        source,
    }
}

fn plic(cpus: u8) -> Kind {
    let harts = Arc::<LateHarts>::default();
    let plic = Plic::new(usize::from(cpus), Arc::clone(&harts) as _);
    Kind::Plic(Arc::new(plic), harts)
}

/// The harts, which are made after the PLIC. Nothing interrupts before.
#[derive(Debug, Default)]
struct LateHarts(OnceLock<Harts>);

impl HartInterrupts for LateHarts {
    fn set(&self, hart: usize, high: bool) {
        if let Some(harts) = self.0.get() {
            harts.set(hart, high);
        }
    }
}

/// The vectors of a device whose messages no controller takes. The tables name none, and a driver that
/// programs one all the same gets no interrupts.
struct NoMessages;

impl MsiVectors for NoMessages {
    fn send(&self, _: MsiMessage) {}

    fn assign(&self, _: u16, _: MsiMessage, _: &EventFd) -> io::Result<()> {
        Ok(())
    }

    fn deassign(&self, _: u16, _: &EventFd) -> io::Result<()> {
        Ok(())
    }
}
