// SPDX-License-Identifier: Apache-2.0
//! riscv64: a machine without firmware of its own; KVM is its SBI. A device tree describes it, and
//! kernels enter it in supervisor mode without paging.

mod aia;
pub(super) mod board;
pub(super) mod boot;
pub(super) mod exit;
#[cfg(test)]
pub(super) mod golden;
pub(super) mod irqchip;
pub(super) mod isa;
pub(super) mod layout;
pub(super) mod register;
mod tables;
pub(super) mod vcpu;

pub(super) use super::unsaved as state;

use ipc::cpu_model::CpuModel;
use kvm_bindings::KVM_CAP_VM_GPA_BITS;

use crate::kvm::{KvmError, Vm};

/// Checks that the guest's harts reach all of the machine's addresses, which are below `end`.
pub fn prepare_vm(vm: &Vm, end: u64, _: &CpuModel) -> Result<(), KvmError> {
    // Hosts that cannot say have at least Sv39x4.
    let bits = match vm.fd().check_extension_raw(KVM_CAP_VM_GPA_BITS.into()) {
        bits if bits > 0 => bits.unsigned_abs(),
        _ => 41,
    };
    if bits < u64::BITS && end > 1 << bits {
        return Err(KvmError::AddressBits { has: bits });
    }
    Ok(())
}
