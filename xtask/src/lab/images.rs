// SPDX-License-Identifier: Apache-2.0
//! What the inner host boots from: emulator, kernel, initramfs, root image, guests' image. All of it
//! is cached.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::emulator::Emulator;
use crate::apt::{Release, transport_settings};
use crate::command::{command, piped, program, quiet};
use crate::cpio::Archive;
use crate::guests::{self, Kernels, modules};
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
    "qemu-system-x86",
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
const EARLY_MODULES: &[&str] = &["virtio_blk", "squashfs", "overlay"];

/// QEMU, and the paths of everything it is given.
pub(crate) struct Images {
    pub(crate) emulator: Emulator,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) guests: PathBuf,
}

/// Makes what the cache does not have.
pub(crate) fn ready() -> Result<Images> {
    packages::ensure(packages::LAB)?;
    let kernels = Kernels::ready()?;
    let kernel = kernels.lab_kernel();
    let stamp = kernel_stamp(&kernels)?;
    let recipe = [
        stamp.as_str(),
        INITRAMFS_INIT,
        INIT,
        &format!("{EARLY_MODULES:?}"),
    ]
    .join("\n");
    let initramfs = cache::entry("initramfs", &[&recipe], |dir| {
        fs::write(dir.join("initramfs.cpio"), initramfs(&kernels)?).context("initramfs")
    })?;
    let recipe = [stamp, format!("{PACKAGES:?}{LEFT_OUT:?}1")].join("\n");
    let root = cache::entry("root", &[&recipe], |dir| make_root(&kernels, dir))?;
    let guests = guests::ready(&kernels)?;
    let name = crate::command::file_name(&guests);
    let guests = cache::entry("guests-image", &[&name], |dir| {
        progress::step("packing the guests' image", || {
            squash(&guests, &dir.join("guests.squashfs"))
        })
    })?;
    Ok(Images {
        emulator: Emulator::ready()?,
        kernel,
        initramfs: initramfs.join("initramfs.cpio"),
        root: root.join("root.squashfs"),
        guests: guests.join("guests.squashfs"),
    })
}

/// Names the kernel that modules must match.
fn kernel_stamp(kernels: &Kernels) -> Result<String> {
    modules::version(&kernels.tree(guests::LAB_RELEASE))
}

fn initramfs(kernels: &Kernels) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in ["bin", "dev", "lower", "mod", "root", "upper"] {
        archive.directory(dir)?;
    }
    archive.console_device()?;
    archive.program_from("bin/busybox", &kernels.busybox())?;
    let mut order = String::new();
    for module in modules::in_order(&kernels.tree(guests::LAB_RELEASE), EARLY_MODULES)? {
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
fn make_root(kernels: &Kernels, dir: &Path) -> Result<()> {
    let release = Release::open(guests::LAB_RELEASE)?;
    let settings = dir.join("transport.conf");
    fs::write(&settings, transport_settings()?)?;
    let modules = kernels.tree(guests::LAB_RELEASE).join("lib/modules");
    let mut debootstrap = command(
        "mmdebstrap",
        ["--variant=minbase", "--format=tar", "--quiet"],
    );
    debootstrap.arg(format!("--aptopt={}", settings.display()));
    debootstrap.arg(format!("--include={}", PACKAGES.join(",")));
    for path in LEFT_OUT {
        debootstrap.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    debootstrap.arg("--customize-hook=mkdir -p \"$1\"/usr/lib/modules");
    // Only the hook that copies in can write the target in every mode that mmdebstrap has.
    debootstrap.arg(format!(
        "--customize-hook=sync-in {} /usr/lib/modules",
        modules.display()
    ));
    debootstrap.arg("--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*");
    debootstrap
        .args([guests::LAB_RELEASE, "-"])
        .arg(release.sources());
    progress::step(
        "making the inner host's root file system (about a minute)",
        || {
            let options = ["-comp", "lz4", "-quiet", "-no-progress"];
            let mut pack = command(program("sqfstar"), options);
            piped(&mut debootstrap, pack.arg(dir.join("root.squashfs")))
        },
    )?;
    fs::remove_file(settings).context("transport.conf")
}

/// Packs `dir` without compression: its readers are slower than any disk.
fn squash(dir: &Path, image: &Path) -> Result<()> {
    let options = [
        "-noI",
        "-noD",
        "-noF",
        "-noX",
        "-all-root",
        "-quiet",
        "-no-progress",
    ];
    quiet(command(program("mksquashfs"), [dir, image]).args(options))
}
