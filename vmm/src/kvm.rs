// SPDX-License-Identifier: Apache-2.0
//! The KVM VM: memory slots, vCPUs, messages and interrupt routes. What the interrupt controllers are,
//! the architecture knows.

pub mod device;
mod eventfds;
pub mod hart;
mod routes;

use std::fmt;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use devices::interrupt::MsiMessage;
use kvm_bindings::{
    KVM_API_VERSION, KVM_MSI_VALID_DEVID, KvmIrqRouting, kvm_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use log::warn;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::GuestMemory;
pub use eventfds::MsiRoutes;
pub use routes::Gsi;
use routes::Routes;

/// Why KVM cannot run the machine.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The descriptor is not /dev/kvm, or its API is a different one.
    #[error("/dev/kvm has API version {0}, not {KVM_API_VERSION}")]
    Version(i32),
    /// The kernel is too old or was built without a capability.
    #[error("this kernel's KVM lacks {0}")]
    Lacks(&'static str),
    /// The host's processor, or what KVM passes on of it, has not all features of the model.
    #[error("this host lacks {0}: choose a lower level, or switch them off (-FEATURE)")]
    LacksFeatures(String),
    /// More vCPUs than KVM supports.
    #[error("KVM runs at most {0} vCPUs here")]
    Cpus(usize),
    /// This architecture has no such interrupt controller.
    #[error("machines of {arch} have no {0}", arch = std::env::consts::ARCH)]
    NoSuchIrqchip(&'static str),
    /// The host cannot virtualise the interrupt controller.
    #[error("this host's KVM has no {irqchip}")]
    LacksIrqchip {
        /// Its name.
        irqchip: &'static str,
        /// The kernel's error.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The interrupt controller knows fewer vCPUs.
    #[error("a machine with {irqchip} has at most {max} vCPUs")]
    CpusOfIrqchip {
        /// Its name.
        irqchip: &'static str,
        /// How many it knows.
        max: u8,
    },
    /// The guest's processors do not reach the end of the machine.
    #[error(
        "memory and PCI windows need more than the {has} address bits that KVM gives guests here"
    )]
    AddressBits {
        /// How many bits an address has.
        has: u32,
    },
    /// An ioctl failed.
    #[error("cannot {what}")]
    Ioctl {
        /// What it was for.
        what: &'static str,
        /// The kernel's error.
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// For `map_err`: wraps the error of an ioctl that was to do `what`.
pub fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Ioctl { what, source }
}

/// A VM, shared by all threads.
pub struct Vm {
    kvm: Kvm,
    vm: VmFd,
    routes: Mutex<Routes>,
}

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vm")
    }
}

impl Vm {
    /// What messages by irqfd need.
    pub const MSI_CAPS: [(Cap, &'static str); 3] = [
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
        (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    ];
    /// What every machine needs.
    const NEEDED: [(Cap, &'static str); 3] = [
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    ];

    /// Makes a VM for `cpus` vCPUs, without interrupt controllers.
    pub fn new(fd: OwnedFd, cpus: u8) -> Result<Self, KvmError> {
        let kvm = adopt(fd);
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(KvmError::Version(version));
        }
        let max = kvm.get_max_vcpus().min(kvm.get_max_vcpu_id());
        if usize::from(cpus) > max {
            return Err(KvmError::Cpus(max));
        }
        let vm = kvm.create_vm().map_err(failed("create a VM"))?;
        let vm = Self {
            kvm,
            vm,
            routes: Mutex::default(),
        };
        vm.require(&Self::NEEDED)?;
        Ok(vm)
    }

    /// Checks that KVM has all of `caps`.
    pub fn require(&self, caps: &[(Cap, &'static str)]) -> Result<(), KvmError> {
        let lacking = |(cap, _): &&(Cap, _)| !self.kvm.check_extension(*cap);
        match caps.iter().find(lacking) {
            Some((_, name)) => Err(KvmError::Lacks(name)),
            None => Ok(()),
        }
    }

    /// The VM's descriptor, for what only one architecture asks of it.
    pub fn fd(&self) -> &VmFd {
        &self.vm
    }

    /// /dev/kvm, for queries that are not about one VM.
    pub fn system(&self) -> &Kvm {
        &self.kvm
    }

    /// Makes a vCPU.
    pub fn create_vcpu(&self, id: u8) -> Result<VcpuFd, KvmError> {
        self.vm
            .create_vcpu(u64::from(id))
            .map_err(failed("create a vCPU"))
    }

    /// Registers guest memory. `memory` must stay mapped as long as the VM exists.
    #[allow(unsafe_code)]
    pub fn set_memory(&self, memory: &'static GuestMemory) -> Result<(), KvmError> {
        for (slot, region) in memory.iter().enumerate() {
            let slot = kvm_userspace_memory_region {
                slot: u32::try_from(slot).unwrap_or(u32::MAX),
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
                flags: 0,
            };
            // SAFETY: address and length are those of a mapping that is never unmapped (`memory` is
            // borrowed for ever), and regions do not overlap (vm-memory has checked).
            let set = unsafe { self.vm.set_user_memory_region(slot) };
            set.map_err(failed("give guest memory to the VM"))?;
        }
        Ok(())
    }
}

impl Vm {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes the routes to KVM, if they have changed.
    fn give(&self, routes: &mut Routes) -> Result<(), kvm_ioctls::Error> {
        routes.give(|entries| {
            let table = KvmIrqRouting::from_entries(entries);
            let table = table.map_err(|_| kvm_ioctls::Error::new(libc::EINVAL))?;
            self.vm.set_gsi_routing(&table)
        })
    }

    /// Allocates a range of `count` GSIs; returns the first.
    pub fn allocate_gsis(&self, count: usize) -> Gsi {
        self.routes().allocate(count)
    }

    /// Routes the GSIs from `first` on to `messages`.
    pub fn route_all(
        &self,
        first: Gsi,
        messages: &[Option<MsiMessage>],
    ) -> Result<(), kvm_ioctls::Error> {
        let mut routes = self.routes();
        routes.set_all(first, messages);
        self.give(&mut routes)
    }

    /// Routes `gsi` to a message of the device with this requester id, or of none.
    fn route(
        &self,
        gsi: Gsi,
        message: MsiMessage,
        requester: Option<u16>,
    ) -> Result<(), kvm_ioctls::Error> {
        let mut routes = self.routes();
        routes.set(gsi, message, requester);
        self.give(&mut routes)
    }

    /// Delivers a message of the device with this requester id, or of none.
    pub fn send(&self, message: MsiMessage, requester: Option<u16>) {
        let [low, high] = halves(message.address);
        let msi = kvm_msi {
            address_lo: low,
            address_hi: high,
            data: message.data,
            flags: requester.map_or(0, |_| KVM_MSI_VALID_DEVID),
            devid: requester.map_or(0, u32::from),
            ..Default::default()
        };
        // A guest can program a destination that does not exist; that only harms itself.
        if let Err(e) = self.vm.signal_msi(msi) {
            warn!("cannot deliver an interrupt message: {e}");
        }
    }
}

#[allow(unsafe_code)]
fn adopt(fd: OwnedFd) -> Kvm {
    use std::os::fd::FromRawFd;
    // SAFETY: into_raw_fd() gives up ownership of an open descriptor, which Kvm takes over. That it
    // is /dev/kvm is checked by the first ioctl.
    unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) }
}

fn halves(address: u64) -> [u32; 2] {
    [(address & 0xffff_ffff) as u32, (address >> 32) as u32]
}
