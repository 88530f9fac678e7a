// SPDX-License-Identifier: Apache-2.0
//! vCPUs of this host's KVM, saved and restored.

use std::sync::Arc;

use ipc::cpu_model::CpuModel;

use super::*;
use crate::arch::x86_64::irqchip::Irqchip;
use crate::arch::x86_64::{prepare_vm, vcpu};

/// A VM of two vCPUs, if this machine has KVM.
fn vm() -> Option<(Arc<Vm>, Vec<VcpuFd>)> {
    let mut kvm = std::fs::File::options();
    let kvm = kvm.read(true).write(true).open("/dev/kvm").ok()?;
    let vm = Arc::new(Vm::new(kvm.into(), 2).unwrap());
    let model = CpuModel::default();
    prepare_vm(&vm, 4 << 30, &model).unwrap();
    Irqchip::new(&vm, None, 2).unwrap();
    let vcpus = vcpu::create_vcpus(&vm, 2, &model).unwrap();
    Some((vm, vcpus))
}

fn saved(vm: &Vm, vcpus: Vec<VcpuFd>) -> Parts {
    let leaked = |vcpu| &*Box::leak(Box::new(Mutex::new(vcpu)));
    let vcpus: Vec<&'static Mutex<VcpuFd>> = vcpus.into_iter().map(leaked).collect();
    let mut out = Writer::new(1);
    save_vcpus(vm, &vcpus, &mut out).unwrap();
    Parts::parse(&out.finish(), 1).unwrap()
}

#[test]
fn vcpus_restored_are_as_they_were_saved() {
    let Some((first, vcpus)) = vm() else { return };
    let mut regs = vcpus[1].get_regs().unwrap();
    (regs.rax, regs.rip, regs.r15) = (0x1234_5678_9abc, 0x10_0000, 7);
    vcpus[1].set_regs(&regs).unwrap();
    let mut sregs = vcpus[1].get_sregs().unwrap();
    (sregs.cr2, sregs.gdt.base) = (0xabc, 0x500);
    vcpus[1].set_sregs(&sregs).unwrap();
    let before = saved(&first, vcpus);
    let (second, vcpus) = vm().unwrap();

    restore_vcpus(&second, &vcpus, &before).unwrap();

    let after = saved(&second, vcpus);
    for index in [0, 1] {
        for name in [
            "mp-state",
            "regs",
            "sregs",
            "xsave",
            "xcrs",
            "debug-regs",
            "events",
            "tsc-offset",
            "cpuid",
        ] {
            let of = |parts: &Parts| parts.part(name, index).unwrap().to_vec();
            assert_eq!(of(&before), of(&after), "{name} {index}");
        }
        let of = |parts: &Parts| read_all::<kvm_msr_entry>(parts, "msrs", index).unwrap();
        // A deadline that is not set is one that has just passed.
        let differs = |(a, b): &(kvm_msr_entry, kvm_msr_entry)| {
            (a.index, a.data) != (b.index, b.data) && a.index != MSR_TSC_DEADLINE
        };
        let differing: Vec<_> = of(&before)
            .into_iter()
            .zip(of(&after))
            .filter(differs)
            .collect();
        assert!(differing.is_empty(), "{differing:x?}");
    }
    let clock = |parts: &Parts| read::<Clock>(parts, "clock", 0).unwrap();
    let (before, after) = (clock(&before), clock(&after));
    assert!(after.clock_ns >= before.clock_ns, "the clock went back");
}

#[test]
fn state_that_this_host_cannot_have_is_refused_by_name() {
    let Some((first, vcpus)) = vm() else { return };
    let parts = saved(&first, vcpus);
    let (second, vcpus) = vm().unwrap();
    let refused = |name: &'static str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Writer::new(1);
        for (part, index) in parts.names() {
            let mut content = parts.part(part, index).unwrap().to_vec();
            if (part, index) == (name, 1) {
                change(&mut content);
            }
            out.part(part, index, &content);
        }
        let parts = Parts::parse(&out.finish(), 1).unwrap();
        restore_vcpus(&second, &vcpus, &parts)
            .unwrap_err()
            .to_string()
    };
    // VMX, which our guests never have: leaf 1 is the second, ECX its sixth word.
    let cpuid = refused("cpuid", &|content| {
        let leaf = content
            .chunks_mut(40)
            .find(|entry| entry[..4] == [1, 0, 0, 0]);
        leaf.unwrap()[20] |= 1 << 5;
    });
    assert!(cpuid.contains("leaf 0x1: 0x20"), "{cpuid}");
    let regs = refused("regs", &|content| content.truncate(8));
    assert!(regs.contains("\"regs\" 1"), "{regs}");
    let msrs = refused("msrs", &|content| {
        content[..16]
            .copy_from_slice(&[0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    });
    assert!(msrs.contains("MSR 0x12345678"), "{msrs}");
}
