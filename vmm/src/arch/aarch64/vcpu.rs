// SPDX-License-Identifier: Apache-2.0
//! The initial state of a vCPU: what KVM makes of the host's processor, with PSCI. The first one
//! starts at the kernel's entry (Documentation/arch/arm64/booting.rst); the guest starts the others by
//! PSCI.

use std::fmt::Write as _;

use ipc::cpu_model::CpuModel;
use kvm_bindings::{
    KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2, kvm_vcpu_init,
};
use kvm_ioctls::VcpuFd;

use super::boot::EntryPoint;
use crate::kvm::{KvmError, Vm, failed};

/// KVM_{GET,SET}_ONE_REG: a core register of 64 bits, by its place in `struct kvm_regs` in words.
const CORE: u64 = 0x6030_0000_0010_0000;
const X0: u64 = CORE;
const SP_EL0: u64 = CORE + 2 * 31;
const PC: u64 = CORE + 2 * 32;
const PSTATE: u64 = CORE + 2 * 33;
/// The same: a system register of 64 bits, by its encoding op0, op1, CRn, CRm, op2.
const SYSTEM: u64 = 0x6030_0000_0013_0000;
const MPIDR_EL1: u64 = system(3, 0, 0, 0, 5);
const ID_AA64MMFR0_EL1: u64 = system(3, 0, 0, 7, 0);
const ESR_EL1: u64 = system(3, 0, 5, 2, 0);
const FAR_EL1: u64 = system(3, 0, 6, 0, 0);

/// The affinity fields of MPIDR_EL1, by which the tables name a processor.
const AFFINITY: u64 = 0xff_00ff_ffff;
/// EL1 with its own stack pointer, all interrupts masked.
const PSTATE_AT_ENTRY: u64 = 0x3c5;

const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> u64 {
    SYSTEM | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// A vCPU cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up vCPU {id}")]
pub struct VcpuSetupError {
    id: u8,
    #[source]
    source: KvmError,
}

/// Makes the vCPUs of a VM.
pub fn create_vcpus(vm: &Vm, cpus: u8, _: &CpuModel) -> Result<Vec<VcpuFd>, VcpuSetupError> {
    let failed = |id| move |source| VcpuSetupError { id, source };
    (0..cpus)
        .map(|id| create(vm, id).map_err(failed(id)))
        .collect()
}

fn create(vm: &Vm, id: u8) -> Result<VcpuFd, KvmError> {
    let vcpu = vm.create_vcpu(id)?;
    let mut init = kvm_vcpu_init::default();
    let preferred = vm.fd().get_preferred_target(&mut init);
    preferred.map_err(failed("ask for the processor's type"))?;
    init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
    // The guest gets no performance counters: they tell of other guests.
    init.features[0] &= !(1 << KVM_ARM_VCPU_PMU_V3);
    if id > 0 {
        init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
    }
    vcpu.vcpu_init(&init)
        .map_err(failed("initialise the processor"))?;
    Ok(vcpu)
}

/// Has the first vCPU start at `entry`; the guest starts the others.
pub fn enter_at(first: &VcpuFd, entry: EntryPoint) -> Result<(), VcpuSetupError> {
    let set = |register: u64, value: u64| {
        let set = first.set_one_reg(register, &value.to_le_bytes());
        set.map_err(failed("set a register"))
    };
    let all = || -> Result<(), KvmError> {
        set(PSTATE, PSTATE_AT_ENTRY)?;
        set(PC, entry.address)?;
        set(X0, entry.device_tree)?;
        Ok(())
    };
    all().map_err(|source| VcpuSetupError { id: 0, source })
}

fn get(vcpu: &VcpuFd, register: u64) -> Result<u64, KvmError> {
    let mut value = [0; 8];
    vcpu.get_one_reg(register, &mut value)
        .map_err(failed("read a register"))?;
    Ok(u64::from_le_bytes(value))
}

/// The affinity of a vCPU.
pub(super) fn affinity(vcpu: &VcpuFd) -> Result<u64, KvmError> {
    Ok(get(vcpu, MPIDR_EL1)? & AFFINITY)
}

/// The sizes of pages that the processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granules {
    pub(super) kib_4: bool,
    pub(super) kib_16: bool,
    pub(super) kib_64: bool,
}

impl Granules {
    /// Those of a vCPU.
    pub(super) fn of(vcpu: &VcpuFd) -> Result<Self, KvmError> {
        Ok(Self::decode(get(vcpu, ID_AA64MMFR0_EL1)?))
    }

    /// ID_AA64MMFR0_EL1: TGran4 and TGran64 are 0xf, TGran16 is 0 for a size that is not there.
    fn decode(mmfr0: u64) -> Self {
        let field = |shift: u32| mmfr0 >> shift & 0xf;
        Self {
            kib_4: field(28) != 0xf,
            kib_16: field(20) != 0,
            kib_64: field(24) != 0xf,
        }
    }
}

/// What a vCPU is told after a pause: nothing, its counter has gone on.
pub fn after_pause(_: &VcpuFd) {}

/// The registers of a vCPU on one line, for the log.
pub fn state_of(vcpu: &VcpuFd) -> String {
    let named = [
        ("pc", PC),
        ("pstate", PSTATE),
        ("sp_el0", SP_EL0),
        ("esr_el1", ESR_EL1),
        ("far_el1", FAR_EL1),
    ];
    let general = (0..31).map(|n| (format!("x{n}"), X0 + 2 * n));
    let mut text = String::new();
    let named = named.map(|(name, register)| (name.to_owned(), register));
    for (name, register) in named.into_iter().chain(general) {
        if let Ok(value) = get(vcpu, register) {
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{name}={value:#x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_have_the_numbers_of_the_kernels_documentation() {
        // Documentation/virt/kvm/api.rst, KVM_SET_ONE_REG.
        assert_eq!((X0, PC, PSTATE), (CORE, CORE + 0x40, CORE + 0x42));
        assert_eq!(MPIDR_EL1, 0x6030_0000_0013_c005);
        assert_eq!(ID_AA64MMFR0_EL1, 0x6030_0000_0013_c038);
    }

    #[test]
    fn granules_are_told_apart() {
        // A Cortex-A57 of QEMU has none of 16 KiB.
        let a57 = Granules::decode(0x1124);
        assert_eq!((a57.kib_4, a57.kib_16, a57.kib_64), (true, false, true));
        let all = Granules::decode(0x10_1122);
        assert!(all.kib_4 && all.kib_16 && all.kib_64);
        let none = Granules::decode(0xff00_0000);
        assert!(!none.kib_4 && !none.kib_16 && !none.kib_64);
    }
}
