// SPDX-License-Identifier: Apache-2.0
//! The inner hosts: what QEMU emulates for each, and what Linux in it is told.

use anyhow::{Result, bail};
use e2e::machine::Machine;

use crate::arch::Arch;

/// A machine that QEMU emulates and that KVM works in.
#[derive(Debug)]
pub(crate) struct InnerHost {
    /// How the command line names it: after what tells it from others of its architecture.
    pub(crate) name: &'static str,
    pub(crate) arch: Arch,
    /// What a VM is in it.
    pub(crate) runs: Machine,
    pub(crate) qemu: &'static Qemu,
    pub(crate) machine: &'static str,
    pub(crate) cpu: &'static str,
    pub(crate) memory: &'static str,
    /// The serial port, as Linux names it.
    pub(crate) console: &'static str,
    /// The kernel: one of the guests', by its series.
    pub(crate) kernel: &'static str,
    /// What is loaded for KVM, if it is not built in.
    pub(crate) modules: &'static [&'static str],
    /// Whether KVM has to be kept from patching itself: see `e2e hold-kvm`.
    pub(crate) is_held: bool,
}

/// An emulator.
#[derive(Debug)]
pub(crate) struct Qemu {
    /// Debian's package.
    pub(crate) package: &'static str,
    pub(crate) program: &'static str,
    /// Where it finds firmware.
    pub(crate) firmware: &'static [&'static str],
}

const X86: Qemu = Qemu {
    package: "qemu-system-x86",
    program: "usr/bin/qemu-system-x86_64",
    firmware: &["usr/share/qemu", "usr/share/seabios"],
};
const ARM: Qemu = Qemu {
    package: "qemu-system-arm",
    program: "usr/bin/qemu-system-aarch64",
    firmware: &["usr/share/qemu"],
};
const RISCV: Qemu = Qemu {
    package: "qemu-system-riscv",
    program: "usr/bin/qemu-system-riscv64",
    firmware: &["usr/share/qemu"],
};

/// All of them; the first of an architecture is the one to take when none is named.
pub(crate) const ALL: &[InnerHost] = &[
    InnerHost {
        name: "svm",
        arch: Arch::X86_64,
        runs: Machine::X86,
        qemu: &X86,
        machine: "pc",
        cpu: "EPYC,+svm,+npt",
        memory: "6G",
        console: "ttyS0",
        kernel: "6.12",
        modules: &["kvm-amd"],
        is_held: true,
    },
    InnerHost {
        name: "gicv3",
        arch: Arch::Aarch64,
        runs: Machine::Gicv3,
        qemu: &ARM,
        machine: "virt,virtualization=on,gic-version=3",
        cpu: "neoverse-n1",
        memory: "6G",
        console: "ttyAMA0",
        kernel: "6.12",
        modules: &[],
        is_held: false,
    },
    InnerHost {
        // Like a Raspberry Pi 5: GIC-400, and pages of 16 KiB.
        name: "gicv2",
        arch: Arch::Aarch64,
        runs: Machine::Gicv2,
        qemu: &ARM,
        machine: "virt,virtualization=on,gic-version=2",
        cpu: "cortex-a76",
        memory: "6G",
        console: "ttyAMA0",
        kernel: "6.12-16k",
        modules: &[],
        is_held: false,
    },
    InnerHost {
        name: "aia",
        arch: Arch::Riscv64,
        runs: Machine::Aia,
        qemu: &RISCV,
        machine: "virt,aia=aplic-imsic,aia-guests=3",
        cpu: "rv64,h=true",
        memory: "6G",
        console: "ttyS0",
        kernel: "6.12",
        modules: &["kvm"],
        is_held: false,
    },
    InnerHost {
        name: "plic",
        arch: Arch::Riscv64,
        runs: Machine::Plic,
        qemu: &RISCV,
        machine: "virt",
        cpu: "rv64,h=true",
        memory: "6G",
        console: "ttyS0",
        kernel: "6.12",
        modules: &["kvm"],
        is_held: false,
    },
];

/// Those of an architecture.
pub(crate) fn of_arch(arch: Arch) -> impl Iterator<Item = &'static InnerHost> {
    ALL.iter().filter(move |host| host.arch == arch)
}

/// The inner host of this architecture and, if one is named, of this name.
pub(crate) fn find(arch: Arch, name: Option<&str>) -> Result<&'static InnerHost> {
    let found = of_arch(arch).find(|host| name.is_none_or(|name| host.name == name));
    let Some(found) = found else {
        let names: Vec<_> = of_arch(arch).map(|host| host.name).collect();
        bail!(
            "--host {}: {arch} has {}",
            name.unwrap_or_default(),
            names.join(" and ")
        );
    };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_of_another_architecture_is_refused() {
        assert_eq!(find(Arch::Aarch64, None).unwrap().name, "gicv3");
        assert_eq!(find(Arch::Aarch64, Some("gicv2")).unwrap().name, "gicv2");
        let error = find(Arch::Aarch64, Some("plic")).unwrap_err().to_string();
        assert_eq!(error, "--host plic: aarch64 has gicv3 and gicv2");
    }
}
