// SPDX-License-Identifier: Apache-2.0
//! x86_64: a machine without firmware, PIC or PIT. ACPI tables describe it, MSIs carry its
//! interrupts, and kernels enter it in 32-bit protected mode.

mod acpi;
pub(super) mod board;
mod board_state;
pub(super) mod boot;
mod cpu_model;
mod cpuid;
mod dsdt;
pub(super) mod exit;
#[cfg(test)]
pub(super) mod golden;
pub(super) mod irqchip;
pub(super) mod layout;
pub(super) mod state;
mod timer;
mod tsc;
pub(super) mod vcpu;

use ipc::cpu_model::CpuModel;
use kvm_bindings::{KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE, kvm_enable_cap};

use crate::kvm::{KvmError, Vm, failed};

/// Disables the guest's performance counters, if the host can (Linux 5.18): `offered` is the value
/// of KVM_CAP_PMU_CAPABILITY. CPUID hides them in any case, but an AMD guest could still use the
/// four oldest counters, which no leaf enumerates.
fn disable_counters(offered: i32) -> Option<kvm_enable_cap> {
    let can = u32::try_from(offered).is_ok_and(|bits| bits & KVM_PMU_CAP_DISABLE != 0);
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_PMU_CAPABILITY,
        ..Default::default()
    };
    cap.args[0] = u64::from(KVM_PMU_CAP_DISABLE);
    can.then_some(cap)
}

/// Prepares an x86 VM for its first vCPU: refuses a model of a processor that the host lacks, and places the identity map and the TSS, four pages that KVM
/// uses on Intel CPUs that cannot run real mode, where nothing else is mapped.
pub fn prepare_vm(vm: &Vm, _end: u64, model: &CpuModel) -> Result<(), KvmError> {
    if !model.is_default() {
        let missing = cpu_model::missing(&cpuid::supported(vm.system())?, model);
        if !missing.is_empty() {
            return Err(KvmError::LacksFeatures(missing.join(", ")));
        }
    }
    let vm = vm.fd();
    let offered = vm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into());
    if let Some(cap) = disable_counters(offered) {
        vm.enable_cap(&cap)
            .map_err(failed("switch the performance counters off"))?;
    }
    vm.set_identity_map_address(layout::IDENTITY_MAP)
        .map_err(failed("place the identity map"))?;
    let tss = usize::try_from(layout::TSS).unwrap_or(usize::MAX);
    vm.set_tss_address(tss)
        .map_err(failed("place the task state segment"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn counters_are_switched_off_where_the_host_can() {
        assert!(disable_counters(0).is_none() && disable_counters(-1).is_none());
        let cap = disable_counters(1).unwrap();
        assert_eq!((cap.cap, cap.args[0]), (KVM_CAP_PMU_CAPABILITY, 1));
    }

    #[test]
    fn vm_whose_counters_are_off_can_have_vcpus() {
        let kvm = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm");
        if let Ok(kvm) = kvm {
            let vm = Arc::new(Vm::new(kvm.into(), 1).unwrap());
            prepare_vm(&vm, 4 << 30, &CpuModel::default()).unwrap();
            irqchip::Irqchip::new(&vm, None, 1).unwrap();
            vm.create_vcpu(0).unwrap();
        }
    }
}
