// SPDX-License-Identifier: Apache-2.0
//! aarch64: a machine without firmware. A device tree describes it, PSCI starts and stops it, and
//! kernels enter it at EL1 without paging.

pub(super) mod board;
pub(super) mod boot;
pub(super) mod exit;
#[cfg(test)]
pub(super) mod golden;
pub(super) mod irqchip;
pub(super) mod layout;
mod tables;
pub(super) mod vcpu;

pub(super) use super::unsaved as state;

use ipc::cpu_model::CpuModel;
use kvm_ioctls::Cap;

use crate::kvm::{KvmError, Vm};

/// Checks that the guest's processors reach all of the machine's addresses, which are below `end`.
pub fn prepare_vm(vm: &Vm, end: u64, _: &CpuModel) -> Result<(), KvmError> {
    // Hosts that cannot say have 40.
    let bits = match vm.system().check_extension(Cap::ArmVmIPASize) {
        true => vm.system().get_host_ipa_limit().unsigned_abs(),
        false => 40,
    };
    if bits < u64::BITS && end > 1 << bits {
        return Err(KvmError::AddressBits { has: bits });
    }
    Ok(())
}
