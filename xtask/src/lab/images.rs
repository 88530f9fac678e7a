// SPDX-License-Identifier: Apache-2.0
//! What the inner host boots from: emulator, kernel, initramfs, root image. All of it is cached.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::emulator::Emulator;
use super::hosts::InnerHost;
use crate::apt::Release;
use crate::bootstrap::Bootstrap;
use crate::command::{command, program};
use crate::cpio::Archive;
use crate::guests::{self, Kernel, Kernels, modules};
use crate::{cache, packages, progress};

const INITRAMFS_INIT: &str = include_str!("../../assets/lab-initramfs.sh");
const INIT: &str = include_str!("../../assets/lab-init.sh");

/// Programs that tests use in the inner host.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "dmsetup",
    "dnsmasq-base",
    "dropbear-bin",
    "e2fsprogs",
    "ethtool",
    "fio",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libblkio1",
    "passt",
    "procps",
    "qemu-utils",
    "qemu-system-common",
    "socat",
    "strace",
    "util-linux",
    "virtiofsd",
];

/// Weight without use in a machine that lives for minutes.
const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
];

/// Modules that the inner host needs before it has its root.
const EARLY_MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "squashfs",
    "overlay",
];

/// QEMU, and the paths of everything it is given.
pub(crate) struct Images {
    pub(crate) emulator: Emulator,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) third: Third,
}

/// What the third disk is.
pub(crate) enum Third {
    /// Guests, an image that is only read.
    Guests(PathBuf),
    /// A disk that a job works on.
    Work(PathBuf),
}

/// Makes what the cache does not have.
pub(super) fn ready(host: &InnerHost, kernels: &Kernels, third: Third) -> Result<Images> {
    packages::ensure(packages::LAB)?;
    let kernel = kernels.series(host.kernel)?;
    let stamp = stamp(kernel)?;
    let recipe = [
        stamp.as_str(),
        host.arch.names().debian,
        INITRAMFS_INIT,
        INIT,
        &format!("{EARLY_MODULES:?}"),
    ]
    .join("\n");
    let initramfs = cache::entry("initramfs", &[&recipe], |dir| {
        let archive = initramfs(kernel, &kernels.busybox())?;
        fs::write(dir.join("initramfs.cpio"), archive).context("initramfs")
    })?;
    let recipe = [stamp, format!("{:?}{LEFT_OUT:?}2", packages(host))].join("\n");
    let root = cache::entry("root", &[&recipe], |dir| make_root(host, kernel, dir))?;
    Ok(Images {
        emulator: Emulator::ready(host.qemu)?,
        kernel: kernel.image(),
        initramfs: initramfs.join("initramfs.cpio"),
        root: root.join("root.squashfs"),
        third,
    })
}

/// What is in the inner host: QEMU for what it is itself, too.
fn packages(host: &InnerHost) -> Vec<&'static str> {
    let mut packages = PACKAGES.to_vec();
    packages.push(host.qemu.package);
    packages
}

/// Names the kernel that modules must match.
fn stamp(kernel: &Kernel) -> Result<String> {
    modules::version(&kernel.tree())
}

fn initramfs(kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in ["bin", "dev", "lower", "mod", "root", "upper"] {
        archive.directory(dir)?;
    }
    archive.console_device()?;
    archive.program_from("bin/busybox", busybox)?;
    let mut order = String::new();
    for module in modules::in_order(&kernel.tree(), EARLY_MODULES)? {
        order.push_str(&module.name);
        order.push('\n');
        archive.program(&format!("mod/{}", module.name), &module.content)?;
    }
    archive.program("mod/order", order.as_bytes())?;
    archive.program("lab-init", INIT.as_bytes())?;
    archive.program("init", INITRAMFS_INIT.as_bytes())?;
    archive.finish()
}

/// Debian packages, plus the modules of the kernel that the inner host runs.
fn make_root(host: &InnerHost, kernel: &Kernel, dir: &Path) -> Result<()> {
    let release = Release::open(guests::LAB_RELEASE, host.arch)?;
    let mut bootstrap = Bootstrap::system(&release, dir, &packages(host), LEFT_OUT)?;
    bootstrap.add(&kernel.tree().join("lib/modules"), "/usr/lib/modules");
    progress::step(
        "making the inner host's root file system (about a minute)",
        || {
            let options = ["-comp", "lz4", "-quiet", "-no-progress"];
            let mut pack = command(program("sqfstar"), options);
            bootstrap.into(pack.arg(dir.join("root.squashfs")))
        },
    )
}
