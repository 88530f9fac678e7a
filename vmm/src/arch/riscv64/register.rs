// SPDX-License-Identifier: Apache-2.0
//! The registers of KVM_GET_ONE_REG and KVM_SET_ONE_REG (Documentation/virt/kvm/api.rst), all of 64
//! bits.

use kvm_ioctls::VcpuFd;

use crate::kvm::{KvmError, failed};

const BASE: u64 = 0x8030_0000_0000_0000;
const CONFIG: u64 = BASE | 0x0100_0000;
const CORE: u64 = BASE | 0x0200_0000;
const CSR: u64 = BASE | 0x0300_0000;
const TIMER: u64 = BASE | 0x0400_0000;

/// The single-letter extensions, a bit for each letter.
pub(super) const ISA: u64 = CONFIG;
/// The block that `cbo` instructions manage, in bytes.
pub(super) const CBOM_BLOCK: u64 = CONFIG + 1;
/// The block that `cbo.zero` clears, in bytes.
pub(super) const CBOZ_BLOCK: u64 = CONFIG + 5;
/// The largest mode of address translation.
pub(super) const SATP_MODE: u64 = CONFIG + 6;
/// The program counter.
pub(super) const PC: u64 = CORE;
/// The stack pointer.
pub(super) const SP: u64 = CORE + 2;
/// The first arguments.
pub(super) const A0: u64 = CORE + 10;
pub(super) const A1: u64 = CORE + 11;
/// Privileged mode: 1 for supervisor.
pub(super) const MODE: u64 = CORE + 32;
/// CSRs of supervisor mode, in the order of `struct kvm_riscv_csr`.
pub(super) const SCAUSE: u64 = CSR + 5;
pub(super) const STVAL: u64 = CSR + 6;
pub(super) const SATP: u64 = CSR + 8;
/// The frequency of the timer in Hz.
pub(super) const TIMER_FREQUENCY: u64 = TIMER;

/// Whether an extension, by its number, is on.
pub(super) const fn isa_extension(number: u64) -> u64 {
    BASE | 0x0700_0000 | number
}

/// Whether an extension of the SBI, by its number, is on.
pub(super) const fn sbi_extension(number: u64) -> u64 {
    BASE | 0x0800_0000 | number
}

/// Reads a register.
pub(super) fn get(vcpu: &VcpuFd, register: u64) -> Result<u64, kvm_ioctls::Error> {
    let mut value = [0; 8];
    vcpu.get_one_reg(register, &mut value)?;
    Ok(u64::from_le_bytes(value))
}

/// Writes a register.
pub(super) fn set(vcpu: &VcpuFd, register: u64, value: u64) -> Result<(), KvmError> {
    let set = vcpu.set_one_reg(register, &value.to_le_bytes());
    set.map(drop).map_err(failed("set a register"))
}
