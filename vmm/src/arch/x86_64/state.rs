// SPDX-License-Identifier: Apache-2.0
//! What KVM holds of a machine: the registers of its vCPUs, their local APICs, and the clock. Saved on
//! the state thread while no vCPU runs; restored on the main thread of the next vmm, when the vCPUs
//! were made and none has run.
//!
//! All of it is on one host, whose time goes on: counters keep their distance from the host's, and the
//! guest finds that time has passed, as after a pause.

use std::sync::{Mutex, PoisonError};

use host::clock::monotonic_ns;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
    kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use zerocopy::{FromBytes, IntoBytes};

use super::board::Board;
use super::{timer, tsc};
use crate::kvm::{KvmError, Vm, failed};
use crate::state::{Parts, StateError, Writer};

/// Whether machines of this architecture can be saved.
pub const IS_SAVED: bool = true;

const MSR_TSC: u32 = 0x10;
const MSR_TSC_DEADLINE: u32 = 0x6e0;

/// Why the state of the vCPUs and the board cannot be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum MachineStateError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// A part is missing or malformed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The IOAPIC cannot have the state.
    #[error("IOAPIC")]
    IoApic(#[from] devices::state::StateError),
    /// A model-specific register cannot have the value that it had.
    #[error("this host's KVM does not set MSR {index:#x} of a vCPU to {value:#x}")]
    Msr {
        /// Its index.
        index: u32,
        /// The value.
        value: u64,
    },
    /// The guest was shown what this host's processors lack.
    #[error(
        "the guest uses processor features that this host lacks (CPUID leaf {leaf:#x}: {bits:#x})"
    )]
    Cpuid {
        /// The leaf.
        leaf: u32,
        /// The bits.
        bits: u32,
    },
}

/// The clock of the guest, and when it was read.
#[derive(IntoBytes, FromBytes, zerocopy::Immutable)]
#[repr(C)]
struct Clock {
    clock_ns: u64,
    monotonic_ns: u64,
}

/// Saves what KVM and the board hold of a VM, none of whose vCPUs runs.
pub fn save_machine(
    vm: &Vm,
    vcpus: &[&'static Mutex<VcpuFd>],
    board: &Board,
    out: &mut Writer,
) -> Result<(), MachineStateError> {
    save_vcpus(vm, vcpus, out)?;
    Ok(out.json("board", 0, &board.save())?)
}

/// Restores the board, after the vCPUs: what is due at the IOAPIC goes to their local APICs.
pub fn restore_board(board: &Board, parts: &Parts) -> Result<(), MachineStateError> {
    Ok(board.restore(&parts.json("board", 0)?)?)
}

fn save_vcpus(
    vm: &Vm,
    vcpus: &[&'static Mutex<VcpuFd>],
    out: &mut Writer,
) -> Result<(), MachineStateError> {
    let clock = vm.fd().get_clock().map_err(failed("read the clock"))?;
    let clock = Clock {
        clock_ns: clock.clock,
        monotonic_ns: monotonic_ns(),
    };
    out.part("clock", 0, clock.as_bytes());
    let indices = vm.system().get_msr_index_list();
    let indices = indices.map_err(failed("list the MSRs"))?;
    for (index, vcpu) in (0..).zip(vcpus) {
        let vcpu = vcpu.lock().unwrap_or_else(PoisonError::into_inner);
        save(&vcpu, indices.as_slice(), index, out)?;
    }
    Ok(())
}

fn save(vcpu: &VcpuFd, msrs: &[u32], index: u16, out: &mut Writer) -> Result<(), KvmError> {
    let mut put = |name, bytes: &[u8]| out.part(name, index, bytes);
    // First: it may change the local APIC.
    let mp_state = vcpu.get_mp_state().map_err(failed("read a vCPU's state"))?;
    put("mp-state", mp_state.as_bytes());
    let cpuid = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES);
    let cpuid = cpuid.map_err(failed("read CPUID"))?;
    put("cpuid", cpuid.as_slice().as_bytes());
    let regs = vcpu.get_regs().map_err(failed("read the registers"))?;
    put("regs", regs.as_bytes());
    let sregs = vcpu.get_sregs();
    let sregs = sregs.map_err(failed("read the segment registers"))?;
    put("sregs", sregs.as_bytes());
    let xsave = vcpu.get_xsave();
    let xsave = xsave.map_err(failed("read the floating-point state"))?;
    put("xsave", xsave.as_bytes());
    let xcrs = vcpu.get_xcrs().map_err(failed("read XCR0"))?;
    put("xcrs", xcrs.as_bytes());
    let debug = vcpu.get_debug_regs();
    let debug = debug.map_err(failed("read the debug registers"))?;
    put("debug-regs", debug.as_bytes());
    let mut lapic = vcpu.get_lapic().map_err(failed("read the local APIC"))?;
    let events = vcpu.get_vcpu_events();
    let events = events.map_err(failed("read the pending events"))?;
    let has_come = timer::has_come(&lapic, &events);
    if has_come {
        timer::stop_if_run_down(&mut lapic);
    }
    put("lapic", lapic.as_bytes());
    put("msrs", read_msrs(vcpu, msrs, has_come)?.as_bytes());
    let offset = tsc::offset(vcpu).map_err(failed("read the TSC's offset"))?;
    put("tsc-offset", &offset.to_le_bytes());
    put("events", events.as_bytes());
    Ok(())
}

/// The MSRs that a vCPU has: of the others KVM does not know a value. The deadline of the timer is the
/// last: the local APIC must be there when it is set. `has_come` says whether the timer's interrupt has.
fn read_msrs(
    vcpu: &VcpuFd,
    indices: &[u32],
    has_come: bool,
) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let mut read: Vec<kvm_msr_entry> = Vec::with_capacity(indices.len());
    let mut rest: Vec<kvm_msr_entry> = indices.iter().copied().map(unread).collect();
    while !rest.is_empty() {
        let mut some = list(&rest)?;
        let count = vcpu.get_msrs(&mut some).map_err(failed("read MSRs"))?;
        read.extend(some.as_slice().iter().take(count));
        // KVM stops at the first that it refuses.
        rest.drain(..(count + 1).min(rest.len()));
    }
    let value = |index| {
        read.iter()
            .find(|msr| msr.index == index)
            .map(|msr| msr.data)
    };
    // A timer that is due, and whose interrupt is not in the local APIC yet, has no deadline any more:
    // one in the past makes it come.
    let deadline = match (value(MSR_TSC_DEADLINE), value(MSR_TSC)) {
        (Some(0), Some(now)) if !has_come => Some(now),
        (deadline, _) => deadline,
    };
    read.retain(|msr| ![MSR_TSC, MSR_TSC_DEADLINE].contains(&msr.index));
    read.extend(deadline.map(|data| kvm_msr_entry {
        data,
        ..unread(MSR_TSC_DEADLINE)
    }));
    Ok(read)
}

fn unread(index: u32) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        ..Default::default()
    }
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    let too_many = |_| failed("list MSRs")(kvm_ioctls::Error::new(libc::E2BIG));
    Msrs::from_entries(entries).map_err(too_many)
}

/// Restores what KVM holds of a VM into one that was just made.
pub fn restore_vcpus(vm: &Vm, vcpus: &[VcpuFd], parts: &Parts) -> Result<(), MachineStateError> {
    for (index, vcpu) in (0..).zip(vcpus) {
        restore(vcpu, index, parts)?;
    }
    let clock: Clock = read(parts, "clock", 0)?;
    let passed_ns = monotonic_ns().saturating_sub(clock.monotonic_ns);
    let clock = kvm_clock_data {
        clock: clock.clock_ns.saturating_add(passed_ns),
        ..Default::default()
    };
    vm.fd().set_clock(&clock).map_err(failed("set the clock"))?;
    Ok(())
}

/// In this order: the state of the vCPU may change its local APIC, whose base is in the segment
/// registers and whose mode the deadline of the timer depends on.
fn restore(vcpu: &VcpuFd, index: u16, parts: &Parts) -> Result<(), MachineStateError> {
    let cpuid: Vec<kvm_cpuid_entry2> = read_all(parts, "cpuid", index)?;
    check_cpuid(vcpu, &cpuid)?;
    let malformed = |_| StateError::Part("cpuid", index);
    let cpuid = CpuId::from_entries(&cpuid).map_err(malformed)?;
    vcpu.set_cpuid2(&cpuid).map_err(failed("set CPUID"))?;
    let mp_state: kvm_mp_state = read(parts, "mp-state", index)?;
    vcpu.set_mp_state(mp_state)
        .map_err(failed("set a vCPU's state"))?;
    let regs: kvm_regs = read(parts, "regs", index)?;
    vcpu.set_regs(&regs).map_err(failed("set the registers"))?;
    let sregs: kvm_sregs = read(parts, "sregs", index)?;
    vcpu.set_sregs(&sregs)
        .map_err(failed("set the segment registers"))?;
    set_xsave(vcpu, &read(parts, "xsave", index)?)?;
    let xcrs: kvm_xcrs = read(parts, "xcrs", index)?;
    vcpu.set_xcrs(&xcrs).map_err(failed("set XCR0"))?;
    let debug: kvm_debugregs = read(parts, "debug-regs", index)?;
    vcpu.set_debug_regs(&debug)
        .map_err(failed("set the debug registers"))?;
    let lapic: kvm_lapic_state = read(parts, "lapic", index)?;
    vcpu.set_lapic(&lapic)
        .map_err(failed("set the local APIC"))?;
    let offset: [u8; 8] = read(parts, "tsc-offset", index)?;
    let offset = u64::from_le_bytes(offset);
    tsc::set_offset(vcpu, offset).map_err(failed("set the TSC's offset"))?;
    set_msrs(vcpu, &read_all(parts, "msrs", index)?)?;
    let events: kvm_vcpu_events = read(parts, "events", index)?;
    vcpu.set_vcpu_events(&events)
        .map_err(failed("set the pending events"))?;
    Ok(())
}

fn read<T: FromBytes>(parts: &Parts, name: &'static str, index: u16) -> Result<T, StateError> {
    let part = T::read_from_bytes(parts.part(name, index)?);
    part.map_err(|_| StateError::Part(name, index))
}

/// The entries of a table.
fn read_all<T: FromBytes>(
    parts: &Parts,
    name: &'static str,
    index: u16,
) -> Result<Vec<T>, StateError> {
    let malformed = || StateError::Part(name, index);
    let entries = parts.part(name, index)?.chunks(size_of::<T>());
    let entries = entries.map(|entry| T::read_from_bytes(entry).map_err(|_| malformed()));
    entries.collect()
}

/// Sets the floating-point state, if this KVM's is as long as the one that was saved.
#[allow(unsafe_code)]
fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), KvmError> {
    vcpu.get_xsave().map_err(failed(
        "find the floating-point state to be of the usual length",
    ))?;
    // SAFETY: KVM reads as many bytes as a vCPU's state has; KVM_GET_XSAVE above has just failed
    // if these are more than 4096, the length of `xsave`.
    unsafe { vcpu.set_xsave(xsave) }.map_err(failed("set the floating-point state"))
}

fn set_msrs(vcpu: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<(), MachineStateError> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let set = vcpu.set_msrs(&list(rest)?).map_err(failed("set MSRs"))?;
        rest = &rest[set.min(rest.len())..];
        // KVM stops at the first that it refuses: one that it lets no user set, whose value is the same
        // in every VM, or zero.
        if let Some((refused, others)) = rest.split_first() {
            let mut now = list(&[unread(refused.index)])?;
            let known = vcpu.get_msrs(&mut now).map_err(failed("read an MSR"))?;
            let same = known == 1 && now.as_slice()[0].data == refused.data;
            if !same && refused.data != 0 {
                return Err(MachineStateError::Msr {
                    index: refused.index,
                    value: refused.data,
                });
            }
            rest = others;
        }
    }
    Ok(())
}

/// Refuses features in what the guest was shown that the vCPU, as this vmm has made it, lacks.
fn check_cpuid(vcpu: &VcpuFd, shown: &[kvm_cpuid_entry2]) -> Result<(), MachineStateError> {
    let ours = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES);
    let ours = ours.map_err(failed("read CPUID"))?;
    match lacking(ours.as_slice(), shown) {
        Some((leaf, bits)) => Err(MachineStateError::Cpuid { leaf, bits }),
        None => Ok(()),
    }
}

/// Bits that follow the guest's own registers, not the processor: OSXSAVE, OSPKE, MONITOR, APIC.
const FOLLOWS: [u32; 3] = [1 << 27 | 1 << 3, 1 << 4, 1 << 9];

/// The features of an entry, if it tells any, without those that follow the guest's registers.
fn features(entry: &kvm_cpuid_entry2) -> Option<[u32; 4]> {
    let kvm_cpuid_entry2 {
        eax, ebx, ecx, edx, ..
    } = *entry;
    let [ecx_1, ecx_7, edx_1] = FOLLOWS.map(|bits| !bits);
    match (entry.function, entry.index) {
        (1, _) => Some([0, 0, ecx & ecx_1, edx & edx_1]),
        (7, 0) => Some([0, ebx, ecx & ecx_7, edx]),
        (7, _) | (0xd, 1) => Some([eax, 0, 0, 0]),
        (0x8000_0001, _) => Some([0, 0, ecx, edx & edx_1]),
        (0x8000_0008, _) => Some([0, ebx, 0, 0]),
        _ => None,
    }
}

/// The first leaf with features in `shown` that `ours` lacks, and which these are.
fn lacking(ours: &[kvm_cpuid_entry2], shown: &[kvm_cpuid_entry2]) -> Option<(u32, u32)> {
    shown.iter().find_map(|entry| {
        let wanted = features(entry)?;
        let same =
            |ours: &&kvm_cpuid_entry2| (ours.function, ours.index) == (entry.function, entry.index);
        let has = ours
            .iter()
            .find(same)
            .and_then(features)
            .unwrap_or_default();
        let lacking = wanted.iter().zip(has).map(|(wanted, has)| wanted & !has);
        let bits = lacking.fold(0, |all, bits| all | bits);
        (bits != 0).then_some((entry.function, bits))
    })
}

#[cfg(test)]
mod tests;
