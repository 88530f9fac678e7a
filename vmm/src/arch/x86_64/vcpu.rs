// SPDX-License-Identifier: Apache-2.0
//! The initial state of a vCPU: CPUID, MSRs, floating point, local APIC, and for the first vCPU the
//! registers at the kernel's entry.

use std::fmt::Write as _;

use ipc::cpu_model::CpuModel;
use kvm_bindings::{CpuId, Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::boot::EntryPoint;
use super::{cpu_model, cpuid, layout};
use crate::kvm::{KvmError, Vm, failed};

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back.
const MTRR_ENABLE_WRITE_BACK: u64 = 1 << 11 | 6;

const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const APIC_DELIVERY_EXTINT: u32 = 7 << 8;
const APIC_DELIVERY_NMI: u32 = 4 << 8;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const RFLAGS_RESERVED: u64 = 1 << 1;

/// A vCPU cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up vCPU {id}")]
pub struct VcpuSetupError {
    id: u8,
    #[source]
    source: KvmError,
}

/// Makes the vCPUs of a VM.
pub fn create_vcpus(vm: &Vm, cpus: u8, model: &CpuModel) -> Result<Vec<VcpuFd>, VcpuSetupError> {
    let failed = |id| move |source| VcpuSetupError { id, source };
    let mut supported = cpuid::supported(vm.system()).map_err(failed(0))?;
    cpu_model::apply(&mut supported, model);
    let create = |id| create(vm, &cpuid::of_vcpu(&supported, id, cpus), id).map_err(failed(id));
    (0..cpus).map(create).collect()
}

fn create(vm: &Vm, cpuid: &CpuId, id: u8) -> Result<VcpuFd, KvmError> {
    let vcpu = vm.create_vcpu(id)?;
    vcpu.set_cpuid2(cpuid).map_err(failed("set CPUID"))?;
    set_msrs(&vcpu)?;
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu)
        .map_err(failed("set the floating-point state"))?;
    set_local_apic(&vcpu)?;
    Ok(vcpu)
}

/// Has the first vCPU start at `entry`; the guest starts the others.
pub fn enter_at(first: &VcpuFd, entry: EntryPoint) -> Result<(), VcpuSetupError> {
    set_entry(first, entry).map_err(|source| VcpuSetupError { id: 0, source })
}

fn set_msrs(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let entries = [
        entry(MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLE_WRITE_BACK),
    ];
    let refused = |_| failed("set MSRs")(kvm_ioctls::Error::new(libc::EINVAL));
    let msrs = Msrs::from_entries(&entries).map_err(refused)?;
    let set = vcpu.set_msrs(&msrs).map_err(failed("set MSRs"))?;
    if set == entries.len() {
        Ok(())
    } else {
        Err(KvmError::Lacks("an architectural MSR"))
    }
}

/// Virtual wire mode, as firmware leaves it: LINT0 for a PIC, LINT1 for NMIs.
fn set_local_apic(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut apic = vcpu.get_lapic().map_err(failed("read the local APIC"))?;
    for (register, delivery) in [
        (APIC_LVT_LINT0, APIC_DELIVERY_EXTINT),
        (APIC_LVT_LINT1, APIC_DELIVERY_NMI),
    ] {
        for (byte, value) in apic.regs[register..register + 4]
            .iter_mut()
            .zip(delivery.to_le_bytes())
        {
            *byte = i8::from_le_bytes([value]);
        }
    }
    vcpu.set_lapic(&apic).map_err(failed("set the local APIC"))
}

/// 32-bit protected mode, flat segments, no paging, interrupts off: the state that both the Linux
/// 32-bit boot protocol (Documentation/arch/x86/boot.rst) and PVH (xen.git docs/misc/pvh.pandoc)
/// require.
fn set_entry(vcpu: &VcpuFd, entry: EntryPoint) -> Result<(), KvmError> {
    let mut sregs = vcpu
        .get_sregs()
        .map_err(failed("read the segment registers"))?;
    let segment = |selector, type_, limit| kvm_segment {
        limit,
        selector,
        type_,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    let data = segment(0x18, 3, u32::MAX);
    sregs.cs = segment(0x10, 11, u32::MAX);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment {
        s: 0,
        db: 0,
        g: 0,
        ..segment(0, 11, 0x67)
    };
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = 31;
    (sregs.idt.base, sregs.idt.limit) = (0, 0);
    sregs.cr0 = CR0_PE | CR0_ET;
    (sregs.cr4, sregs.efer) = (0, 0);
    vcpu.set_sregs(&sregs)
        .map_err(failed("set the segment registers"))?;
    let regs = kvm_regs {
        rflags: RFLAGS_RESERVED,
        rip: entry.address,
        rbx: entry.ebx,
        rsi: entry.esi,
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(failed("set the registers"))
}

/// Tells the guest's watchdogs that the VM was paused.
pub fn after_pause(vcpu: &VcpuFd) {
    // KVM refuses if the guest has no kvmclock: then there is nothing to tell.
    let _ = vcpu.kvmclock_ctrl();
}

/// The registers of a vCPU on one line, for the log.
pub fn state_of(vcpu: &VcpuFd) -> String {
    let mut text = String::new();
    if let Ok(r) = vcpu.get_regs() {
        let _ = write!(
            text,
            "rip={:#x} rsp={:#x} rflags={:#x} rax={:#x} rbx={:#x} rcx={:#x} rdx={:#x} rsi={:#x} \
             rdi={:#x} rbp={:#x}",
            r.rip, r.rsp, r.rflags, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp
        );
    }
    if let Ok(s) = vcpu.get_sregs() {
        let _ = write!(
            text,
            " cs={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} efer={:#x}",
            s.cs.selector, s.cr0, s.cr2, s.cr3, s.cr4, s.efer
        );
    }
    text
}
