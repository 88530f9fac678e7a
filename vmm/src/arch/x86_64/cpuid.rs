// SPDX-License-Identifier: Apache-2.0
//! The CPUID of the guest (Intel SDM volume 2 "CPUID", AMD APM volume 3 appendix E): what KVM
//! supports, without what identifies the host or allows nested virtualisation, with the topology of
//! this VM: one socket, one core for each vCPU, one thread for each core.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use crate::kvm::{KvmError, failed};

/// Feature bits of leaf 1.
mod leaf1 {
    pub(super) const ECX_DTES64: u32 = 1 << 2;
    pub(super) const ECX_MONITOR: u32 = 1 << 3;
    pub(super) const ECX_VMX: u32 = 1 << 5;
    pub(super) const ECX_PDCM: u32 = 1 << 15;
    pub(super) const ECX_X2APIC: u32 = 1 << 21;
    pub(super) const ECX_TSC_DEADLINE: u32 = 1 << 24;
    pub(super) const ECX_HYPERVISOR: u32 = 1 << 31;
    pub(super) const EDX_SERIAL_NUMBER: u32 = 1 << 18;
    pub(super) const EDX_DS: u32 = 1 << 21;
    pub(super) const EDX_HTT: u32 = 1 << 28;
    /// Comes with performance counters: their capabilities, and the area where they store samples.
    pub(super) const ECX_COUNTERS: u32 = ECX_DTES64 | ECX_PDCM;
}

/// Feature bits of leaf 7 that come with performance counters.
mod leaf7 {
    /// Last branch records (subleaf 0).
    pub(super) const EDX_ARCH_LBR: u32 = 1 << 19;
    /// Leaf 0x23 exists (subleaf 1).
    pub(super) const EAX_ARCH_PERFMON_EXT: u32 = 1 << 8;
}

/// SVM, in leaf 0x8000_0001.
const ECX_SVM: u32 = 1 << 2;
/// Performance counters, in leaf 0x8000_0001: instruction-based sampling, and the counters of the
/// core, the northbridge and the L3 cache.
const ECX_COUNTERS_AMD: u32 = 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28;

/// A vCPU's place in the topology.
#[derive(Debug, Clone, Copy)]
struct Topology {
    /// Its APIC id.
    id: u8,
    /// The number of vCPUs.
    cpus: u8,
}

impl Topology {
    /// How many bits of an APIC id select the core.
    fn core_bits(self) -> u32 {
        u32::from(self.cpus).next_power_of_two().trailing_zeros()
    }
}

/// What KVM supports on this host, before adapting it to one vCPU.
pub(super) fn supported(kvm: &Kvm) -> Result<CpuId, KvmError> {
    if !kvm.check_extension(Cap::TscDeadlineTimer) {
        return Err(KvmError::Lacks("KVM_CAP_TSC_DEADLINE_TIMER"));
    }
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(failed("read the supported CPUID"))
}

/// CPUID of vCPU `id` of `cpus`.
pub(super) fn of_vcpu(supported: &CpuId, id: u8, cpus: u8) -> CpuId {
    let mut cpuid = supported.clone();
    let topology = Topology { id, cpus };
    cpuid.retain(|entry| !is_hidden(entry.function));
    for entry in cpuid.as_mut_slice() {
        adapt(entry, topology);
    }
    cpuid
}

/// Hides the processor serial number, the topology leaves that this machine lacks (an operating
/// system reads leaf 0x1f before 0xb, and 0x80000026 before 0x8000001e), and the leaves that only
/// exist with performance counters.
fn is_hidden(function: u32) -> bool {
    matches!(function, 0x3 | 0x1c | 0x1f | 0x23 | 0x8000_0026)
}

fn adapt(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let Topology { id, cpus } = topology;
    match entry.function {
        0x1 => {
            entry.ebx = entry.ebx & 0x0000_ffff | u32::from(cpus) << 16 | u32::from(id) << 24;
            entry.ecx &= !(leaf1::ECX_MONITOR | leaf1::ECX_VMX | leaf1::ECX_COUNTERS);
            entry.ecx |= leaf1::ECX_HYPERVISOR | leaf1::ECX_TSC_DEADLINE | leaf1::ECX_X2APIC;
            entry.edx &= !(leaf1::EDX_SERIAL_NUMBER | leaf1::EDX_HTT | leaf1::EDX_DS);
            entry.edx |= if cpus > 1 { leaf1::EDX_HTT } else { 0 };
        }
        0x4 => share_cache_intel(entry, topology),
        0x7 if entry.index == 0 => entry.edx &= !leaf7::EDX_ARCH_LBR,
        0x7 if entry.index == 1 => entry.eax &= !leaf7::EAX_ARCH_PERFMON_EXT,
        // Hide the performance counters: they would show what else runs on the host. KVM disables
        // them too (`disable_counters`), or a guest could use them without reading CPUID.
        // 0x8000_001b and 0x8000_0022 are AMD's.
        0xa | 0x8000_001b | 0x8000_0022 => clear(entry),
        0xb => extended_topology(entry, topology),
        0x8000_0001 => entry.ecx &= !(ECX_SVM | ECX_COUNTERS_AMD),
        0x8000_0008 => {
            entry.ecx = entry.ecx & !0xf0ff | topology.core_bits() << 12 | u32::from(cpus - 1);
        }
        0x8000_000a => clear(entry),
        0x8000_001d => share_cache_amd(entry, topology),
        // APIC id; one thread per core; core id; one node.
        0x8000_001e => {
            (entry.eax, entry.ebx, entry.ecx) = (u32::from(id), u32::from(id), 0);
        }
        _ => {}
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

/// Leaf 4: L1 and L2 caches belong to one core; all cores share the L3 cache.
fn share_cache_intel(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let (kind, level) = (entry.eax & 0x1f, (entry.eax >> 5) & 7);
    if kind == 0 {
        return;
    }
    let cores = (1 << topology.core_bits()) - 1;
    let sharing = if level >= 3 { cores } else { 0 };
    entry.eax = entry.eax & 0x0000_3fff | sharing << 14 | (cores & 0x3f) << 26;
}

/// Leaf 0x8000_001d: as in leaf 4.
fn share_cache_amd(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    let level = (entry.eax >> 5) & 7;
    let sharing = if level >= 3 {
        u32::from(topology.cpus - 1)
    } else {
        0
    };
    entry.eax = entry.eax & !(0xfff << 14) | sharing << 14;
}

/// Leaf 0xb: level 0 is the threads of a core (one), level 1 the cores of the socket.
fn extended_topology(entry: &mut kvm_cpuid_entry2, topology: Topology) {
    const SMT: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    (entry.eax, entry.ebx, entry.ecx) = match entry.index {
        0 => (0, 1, SMT),
        1 => (topology.core_bits(), u32::from(topology.cpus), CORE | 1),
        other => (0, 0, other & 0xff),
    };
    entry.edx = u32::from(topology.id);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuid(entries: &[(u32, u32)]) -> CpuId {
        let entries: Vec<kvm_cpuid_entry2> = entries
            .iter()
            .map(|&(function, index)| kvm_cpuid_entry2 {
                function,
                index,
                eax: u32::MAX,
                ebx: u32::MAX,
                ecx: u32::MAX,
                edx: u32::MAX,
                ..Default::default()
            })
            .collect();
        CpuId::from_entries(&entries).unwrap()
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let find = |e: &&kvm_cpuid_entry2| (e.function, e.index) == (function, index);
        *cpuid.as_slice().iter().find(find).unwrap()
    }

    #[test]
    fn guest_sees_no_serial_number_no_nesting_no_counters() {
        let host = cpuid(&[(1, 0), (3, 0), (0xa, 0), (0x8000_0001, 0), (0x8000_000a, 0)]);
        let guest = of_vcpu(&host, 0, 1);
        assert!(guest.as_slice().iter().all(|entry| entry.function != 3));
        assert_eq!(leaf(&guest, 1, 0).edx & leaf1::EDX_SERIAL_NUMBER, 0);
        assert_eq!(leaf(&guest, 1, 0).ecx & leaf1::ECX_VMX, 0);
        assert_eq!(leaf(&guest, 0x8000_0001, 0).ecx & ECX_SVM, 0);
        assert_eq!(
            (leaf(&guest, 0xa, 0).eax, leaf(&guest, 0x8000_000a, 0).edx),
            (0, 0)
        );
    }

    #[test]
    fn guest_sees_no_counters_of_either_vendor() {
        let host = cpuid(&[
            (1, 0),
            (7, 0),
            (7, 1),
            (0xa, 0),
            (0x1c, 0),
            (0x23, 0),
            (0x23, 1),
            (0x8000_0001, 0),
            (0x8000_001b, 0),
            (0x8000_0022, 0),
        ]);
        let guest = of_vcpu(&host, 0, 1);
        for function in [0xa, 0x8000_001b, 0x8000_0022] {
            let entry = leaf(&guest, function, 0);
            let registers = [entry.eax, entry.ebx, entry.ecx, entry.edx];
            assert_eq!(registers, [0; 4], "{function:#x}");
        }
        let mut functions = guest.as_slice().iter().map(|entry| entry.function);
        assert!(functions.all(|function| function != 0x1c && function != 0x23));
        assert_eq!(leaf(&guest, 1, 0).ecx & (1 << 2 | 1 << 15), 0);
        assert_eq!(leaf(&guest, 1, 0).edx & 1 << 21, 0);
        let amd = 1 << 10 | 1 << 23 | 1 << 24 | 1 << 28;
        // What is beside them stays.
        assert_eq!(leaf(&guest, 7, 0).edx, !(1 << 19));
        assert_eq!(leaf(&guest, 7, 1).eax, !(1 << 8));
        assert_eq!(leaf(&guest, 0x8000_0001, 0).ecx, !(amd | ECX_SVM));
    }

    #[test]
    fn guest_sees_a_hypervisor_and_a_deadline_timer() {
        let mut host = cpuid(&[(1, 0)]);
        host.as_mut_slice()[0].ecx = 0;
        let ecx = leaf(&of_vcpu(&host, 0, 1), 1, 0).ecx;
        assert_eq!(
            ecx,
            leaf1::ECX_HYPERVISOR | leaf1::ECX_TSC_DEADLINE | leaf1::ECX_X2APIC
        );
    }

    #[test]
    fn topology_is_one_socket_of_single_threaded_cores() {
        let host = cpuid(&[(1, 0), (0xb, 0), (0xb, 1), (0xb, 2), (0x8000_0008, 0)]);
        let guest = of_vcpu(&host, 5, 6);
        assert_eq!(leaf(&guest, 1, 0).ebx >> 16, 0x0506);
        let core = leaf(&guest, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (3, 6, 0x201, 5));
        assert_eq!((leaf(&guest, 0xb, 0).ebx, leaf(&guest, 0xb, 2).ebx), (1, 0));
        assert_eq!(leaf(&guest, 0x8000_0008, 0).ecx & 0xf0ff, 0x3005);
    }

    #[test]
    fn single_vcpu_is_not_said_to_have_siblings() {
        let guest = of_vcpu(&cpuid(&[(1, 0), (0xb, 1)]), 0, 1);
        assert_eq!(leaf(&guest, 1, 0).edx & leaf1::EDX_HTT, 0);
        assert_eq!((leaf(&guest, 0xb, 1).eax, leaf(&guest, 0xb, 1).ebx), (0, 1));
    }
}
