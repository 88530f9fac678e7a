// SPDX-License-Identifier: Apache-2.0
//! System packages: installed when we are root, named when we are not.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::geteuid;

use crate::arch::Arch;
use crate::command::{find, quiet};
use crate::progress;

/// A program or file that must be there, and the Debian package that brings it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needed {
    probe: &'static str,
    package: &'static str,
}

const fn needed(probe: &'static str, package: &'static str) -> Needed {
    Needed { probe, package }
}

/// What fetching and making guest kernels and initrds takes.
pub(crate) const GUESTS: &[Needed] = &[
    needed(
        "/usr/share/keyrings/debian-archive-trixie-automatic.gpg",
        "debian-archive-keyring",
    ),
    needed("dpkg-deb", "dpkg"),
    needed("depmod", "kmod"),
    needed("xz", "xz-utils"),
    needed("zstd", "zstd"),
    needed("lz4", "lz4"),
    needed("mksquashfs", "squashfs-tools"),
];

/// What making a guest's root file system takes.
pub(crate) const DEBIAN: &[Needed] = &[
    needed("mmdebstrap", "mmdebstrap"),
    needed("fakeroot", "fakeroot"),
    needed("mkfs.ext4", "e2fsprogs"),
];

/// What unit tests run against.
pub(crate) const UNIT_TESTS: &[Needed] = &[
    needed("ip", "iproute2"),
    needed("qemu-storage-daemon", "qemu-system-common"),
    needed("tc", "iproute2"),
];

/// What making packages takes.
pub(crate) const DEB: &[Needed] = &[
    needed("dpkg-buildpackage", "dpkg-dev"),
    needed("dh", "debhelper"),
];

/// What reviews packages.
pub(crate) const LINTIAN: &[Needed] = &[needed("lintian", "lintian")];

/// What hosts of a cluster take.
pub(crate) const CLUSTER: &[Needed] = &[
    needed("corosync", "corosync"),
    needed("pacemakerd", "pacemaker"),
    needed("crm", "crmsh"),
    needed("crm_simulate", "pacemaker-cli-utils"),
    needed("fence_ipmilan", "fence-agents"),
    needed("ipmi_sim", "openipmi"),
    needed("ipmitool", "ipmitool"),
    needed("ip", "iproute2"),
    needed("jq", "jq"),
    needed("nsenter", "util-linux"),
    needed("ocf-tester", "resource-agents"),
    needed("shellcheck", "shellcheck"),
    needed("xmllint", "libxml2-utils"),
];

/// What building libFuzzer takes.
pub(crate) const FUZZ: &[Needed] = &[needed("c++", "g++")];

/// What our disk backend is measured beside.
pub(crate) const BENCH_BLK: &[Needed] = &[
    needed("fio", "fio"),
    needed("qemu-storage-daemon", "qemu-system-common"),
];

/// What seeing each system call takes.
pub(crate) const STRACE: &[Needed] = &[needed("strace", "strace")];

/// What guests are measured with on a network, beside QEMU's.
pub(crate) const BENCH_NET: &[Needed] = &[
    needed("qemu-system-x86_64", "qemu-system-x86"),
    needed("busybox", "busybox-static"),
    needed("dnsmasq", "dnsmasq-base"),
    needed("iperf3", "iperf3"),
    needed("ip", "iproute2"),
    needed("modprobe", "kmod"),
];

/// What linking programs for riscv64 takes.
pub(crate) const RISCV64_COMPILER: &[Needed] = &[
    needed("riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu"),
    needed(
        "/usr/riscv64-linux-gnu/lib/libc.a",
        "libc6-dev-riscv64-cross",
    ),
];

/// What fetching Spike and running it takes.
pub(crate) const SPIKE: &[Needed] = &[
    needed("dtc", "device-tree-compiler"),
    needed("/usr/lib/python3/dist-packages/pip", "python3-pip"),
    needed("setpriv", "util-linux"),
    needed("strip", "binutils"),
    needed("unzip", "unzip"),
];

/// QEMU for a machine of this architecture: our boot is measured beside it, and it uses our backends.
pub(crate) fn qemu(arch: Arch) -> &'static [Needed] {
    const X86_64: &[Needed] = &[needed("qemu-system-x86_64", "qemu-system-x86")];
    const AARCH64: &[Needed] = &[needed("qemu-system-aarch64", "qemu-system-arm")];
    const RISCV64: &[Needed] = &[needed("qemu-system-riscv64", "qemu-system-misc")];
    match arch {
        Arch::X86_64 => X86_64,
        Arch::Aarch64 => AARCH64,
        Arch::Riscv64 => RISCV64,
    }
}

/// What the inner host takes.
pub(crate) const LAB: &[Needed] = &[
    needed("mmdebstrap", "mmdebstrap"),
    needed("setpriv", "util-linux"),
];

/// Sees to it that everything in `wanted` is there.
pub(crate) fn ensure(wanted: &[Needed]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|needed| !needed.is_there())
        .map(|needed| needed.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !geteuid().is_root() {
        bail!("packages are missing; install them with: sudo apt-get install {names}");
    }
    progress::step(&format!("installing packages: {names}"), || {
        quiet(&mut apt_get(&["update", "-q"]))?;
        let install = ["install", "-q", "-y", "--no-install-recommends"];
        quiet(apt_get(&install).args(&missing))
    })?;
    match wanted.iter().find(|needed| !needed.is_there()) {
        Some(needed) => bail!("package {} did not bring {}", needed.package, needed.probe),
        None => Ok(()),
    }
}

impl Needed {
    fn is_there(&self) -> bool {
        if self.probe.starts_with('/') {
            Path::new(self.probe).exists()
        } else {
            find(self.probe).is_some()
        }
    }
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = crate::command::command("apt-get", args);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
