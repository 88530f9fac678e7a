// SPDX-License-Identifier: Apache-2.0
//! The vmm's launch record, from what identifies the VM.

use handover::host_resources::Identity;
use ipc::record::{DeviceRecord, IrqchipChoice, Pages, VERSION, VmmRecord};
use ipc::seccomp::Mode;
use spec::{HugePages, Irqchip, Seccomp};

/// The vmm's launch record; the same at every start, except for the state of links and for whether
/// a guest has run before.
pub(crate) fn record(identity: &Identity, devices: Vec<DeviceRecord>, rebooted: bool) -> VmmRecord {
    let vm = &identity.vm;
    VmmRecord {
        version: VERSION,
        vm_id: identity.name.to_string(),
        cpus: vm.cpus,
        mem_bytes: vm.memory.size_bytes(),
        pages: match vm.memory.huge_pages() {
            HugePages::None => Pages::Base,
            HugePages::Transparent => Pages::Transparent,
            HugePages::Size2M => Pages::Huge2M,
            HugePages::Size1G => Pages::Huge1G,
        },
        prefault: vm.memory.prefault(),
        cmdline: vm.cmdline.clone(),
        initrd: vm.initrd.is_some(),
        irqchip: irqchip(vm.irqchip),
        seccomp: seccomp(identity),
        rebooted,
        devices,
    }
}

fn irqchip(wanted: Irqchip) -> IrqchipChoice {
    match wanted {
        Irqchip::Auto => IrqchipChoice::Auto,
        Irqchip::Gicv3 => IrqchipChoice::Gicv3,
        Irqchip::Gicv2 => IrqchipChoice::Gicv2,
        Irqchip::Aia => IrqchipChoice::Aia,
        Irqchip::Plic => IrqchipChoice::Plic,
    }
}

/// What the kernel does about a system call outside the filters.
pub(crate) fn seccomp(identity: &Identity) -> Mode {
    match identity.vm.seccomp {
        Seccomp::On => Mode::Kill,
        Seccomp::Log => Mode::Trap,
    }
}
