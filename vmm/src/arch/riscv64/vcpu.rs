// SPDX-License-Identifier: Apache-2.0
//! The initial state of a hart: what KVM makes of the host's, without what would leave KVM. The first
//! one starts at the kernel's entry (Documentation/arch/riscv/boot.rst); the guest starts the others by
//! SBI.

use std::fmt::Write as _;

use ipc::cpu_model::CpuModel;
use kvm_bindings::{
    KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_EXPERIMENTAL,
    KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_PMU, KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_V01,
    KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_VENDOR,
};
use kvm_ioctls::VcpuFd;

use super::boot::EntryPoint;
use super::register::{self, A0, A1, MODE, PC, SATP, SCAUSE, SP, STVAL};
use crate::kvm::{KvmError, Vm};

/// The calls that a guest does not get: those that KVM would pass on to the vmm, which answers none, and
/// performance counters, which would tell what else runs on the processor.
const WITHHELD: [u32; 4] = [
    KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_PMU,
    KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_V01,
    KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_EXPERIMENTAL,
    KVM_RISCV_SBI_EXT_ID_KVM_RISCV_SBI_EXT_VENDOR,
];

/// A hart cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up hart {id}")]
pub struct VcpuSetupError {
    id: u8,
    #[source]
    source: KvmError,
}

/// Makes the harts of a VM.
pub fn create_vcpus(vm: &Vm, cpus: u8, _: &CpuModel) -> Result<Vec<VcpuFd>, VcpuSetupError> {
    let create = |id| {
        let vcpu = vm.create_vcpu(id);
        let vcpu = vcpu.map_err(|source| VcpuSetupError { id, source })?;
        for extension in WITHHELD {
            // A host that does not know the register has no such call, or the vmm answers nothing.
            let _ = register::set(&vcpu, register::sbi_extension(extension.into()), 0);
        }
        Ok(vcpu)
    };
    (0..cpus).map(create).collect()
}

/// Has the first hart start at `entry`; the guest starts the others.
pub fn enter_at(first: &VcpuFd, entry: EntryPoint) -> Result<(), VcpuSetupError> {
    let registers = [(PC, entry.address), (A0, 0), (A1, entry.device_tree)];
    let set = |(register, value)| register::set(first, register, value);
    let all = registers.into_iter().try_for_each(set);
    all.map_err(|source| VcpuSetupError { id: 0, source })
}

/// What a hart is told after a pause: nothing, its counter has gone on.
pub fn after_pause(_: &VcpuFd) {}

/// The registers of a hart on one line, for the log.
pub fn state_of(vcpu: &VcpuFd) -> String {
    let named = [
        ("pc", PC),
        ("mode", MODE),
        ("sp", SP),
        ("a0", A0),
        ("a1", A1),
        ("satp", SATP),
        ("scause", SCAUSE),
        ("stval", STVAL),
    ];
    let mut text = String::new();
    for (name, register) in named {
        if let Ok(value) = register::get(vcpu, register) {
            let space = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{space}{name}={value:#x}");
        }
    }
    text
}
