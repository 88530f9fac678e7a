// SPDX-License-Identifier: Apache-2.0
//! x86_64: a machine without firmware, PIC or PIT. ACPI tables describe it, MSIs carry its
//! interrupts, and kernels enter it in 32-bit protected mode.

mod acpi;
pub(super) mod boot;
mod cpuid;
mod dsdt;
pub(super) mod layout;
pub(super) mod machine;
pub(super) mod vcpu;

use kvm_ioctls::VmFd;

use crate::kvm::{KvmError, failed};

/// What an x86 VM needs before its first vCPU: three pages and one that KVM uses on Intel CPUs that
/// cannot run real mode, in a part of the address space where nothing else is.
pub fn prepare_vm(vm: &VmFd) -> Result<(), KvmError> {
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(failed("place the identity map"))?;
    let tss = usize::try_from(layout::TSS).unwrap_or(usize::MAX);
    vm.set_tss_address(tss)
        .map_err(failed("place the task state segment"))
}
