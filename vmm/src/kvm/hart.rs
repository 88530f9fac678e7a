// SPDX-License-Identifier: Apache-2.0
//! The external interrupt of vCPUs whose interrupt controller is not in KVM: KVM_INTERRUPT
//! (Documentation/virt/kvm/api.rst §4.16), which any thread may call while the vCPU runs.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use devices::riscv::plic::HartInterrupts;
use kvm_ioctls::VcpuFd;
use log::warn;

/// `KVM_INTERRUPT_SET` and `KVM_INTERRUPT_UNSET` of arch/riscv/include/uapi/asm/kvm.h.
const SET: u32 = u32::MAX;
const UNSET: u32 = u32::MAX - 1;

mod ioctl {
    nix::ioctl_write_ptr!(kvm_interrupt, 0xae, 0x86, u32);
}

/// The vCPUs of a VM, for their external interrupts.
#[derive(Debug)]
pub struct Harts(Vec<OwnedFd>);

impl Harts {
    /// Duplicates the descriptors of vCPUs.
    #[allow(unsafe_code)]
    pub fn new(vcpus: &[VcpuFd]) -> std::io::Result<Self> {
        let duplicate = |vcpu: &VcpuFd| {
            // SAFETY: `vcpu` owns the descriptor and outlives this call, in which the borrow ends.
            let fd = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
            fd.try_clone_to_owned()
        };
        vcpus
            .iter()
            .map(duplicate)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl HartInterrupts for Harts {
    #[allow(unsafe_code)]
    fn set(&self, hart: usize, high: bool) {
        let Some(vcpu) = self.0.get(hart) else { return };
        let irq = if high { SET } else { UNSET };
        // SAFETY: the descriptor is a vCPU's, and the kernel reads 4 bytes of `irq`, which lives
        // until the call returns.
        let set = unsafe { ioctl::kvm_interrupt(vcpu.as_raw_fd(), &raw const irq) };
        if let Err(errno) = set {
            warn!("cannot set the interrupt of hart {hart}: {errno}");
        }
    }
}
