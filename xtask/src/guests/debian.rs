// SPDX-License-Identifier: Apache-2.0
//! A Debian root file system as a disk image, for guests that boot from their disk.
//!
//! For another architecture this machine can only unpack the packages: the image that [`unpacked`] makes
//! holds them once more, as archives, and [`SETUP`], for a machine of that architecture to install.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Kernel, Kernels, LAB_RELEASE, LAB_SERIES, modules};
use crate::apt::Release;
use crate::arch::Arch;
use crate::bootstrap::Bootstrap;
use crate::command::{command, program};
use crate::{cache, packages, progress};

/// The image's name in its cache entry and among the guests.
pub(crate) const IMAGE: &str = "debian.ext4";

/// What makes a system of installed packages one to test with, run in it.
const SETUP: &str = include_str!("../../assets/debian-setup.sh");

/// What a test may want to run in such a guest.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "dropbear",
    "e2fsprogs",
    "ethtool",
    "fio",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "kmod",
    "login",
    "passwd",
    "procps",
    "systemd-sysv",
    "udev",
    "util-linux",
    "util-linux-extra",
    "wget",
];

/// Weight without use in a machine that lives for a minute.
pub(crate) const LEFT_OUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/lib/udev/hwdb.d/*",
];

/// The size of the file system; most of it takes no space.
const IMAGE_BYTES: u64 = 768 << 20;

/// Packs a directory of that owner and those modes that the archive says, whoever we are.
const PACK: &str = r#"set -e
mkdir "$1/root"
tar -C "$1/root" --numeric-owner -xpf -
mkfs.ext4 -q -F -L debian -E lazy_itable_init=0,root_owner=0:0 -d "$1/root" "$2"
rm -rf "$1/root""#;

/// Everything the image is made from but the kernel's modules, for the cache's key.
pub(crate) fn recipe() -> String {
    format!("{SETUP}\n{PACKAGES:?}{LEFT_OUT:?}{IMAGE_BYTES}\n{PACK}")
}

/// The image, made once.
pub(super) fn ready(kernels: &Kernels) -> Result<Option<PathBuf>> {
    if !kernels.arch.is_own() {
        return Ok(None);
    }
    let kernel = kernels.series(LAB_SERIES)?;
    let stamp = modules::version(&kernel.tree())?;
    let arch = kernels.arch.names().debian;
    let entry = cache::entry("debian", &[&stamp, arch, &recipe()], |dir| {
        packages::ensure(packages::DEBIAN)?;
        make(kernels.arch, kernel, dir)
    })?;
    Ok(Some(entry.join(IMAGE)))
}

fn make(arch: Arch, kernel: &Kernel, dir: &Path) -> Result<()> {
    let release = Release::open(LAB_RELEASE, arch)?;
    let work = crate::scratch::Scratch::new_in(dir, "work")?;
    let setup = work.path().join("setup");
    fs::write(&setup, SETUP)?;
    let mut bootstrap = Bootstrap::system(&release, work.path(), PACKAGES, LEFT_OUT)?;
    bootstrap.add(&kernel.tree().join("lib/modules"), "/usr/lib/modules");
    bootstrap.hook(&format!("upload {} /setup", setup.display()));
    bootstrap.hook("chroot \"$1\" sh /setup && rm \"$1\"/setup");
    progress::step("making a Debian root file system (about a minute)", || {
        pack(bootstrap, work.path(), &dir.join(IMAGE))
    })
}

/// The image for another architecture, with packages that are not installed yet.
pub(crate) fn unpacked(kernels: &Kernels, dir: &Path) -> Result<()> {
    packages::ensure(packages::DEBIAN)?;
    let kernel = kernels.series(LAB_SERIES)?;
    let release = Release::open(LAB_RELEASE, kernels.arch)?;
    let work = crate::scratch::Scratch::new_in(dir, "work")?;
    let setup = work.path().join("setup");
    fs::write(&setup, SETUP)?;
    let mut bootstrap = Bootstrap::installable(&release, work.path(), PACKAGES, LEFT_OUT)?;
    bootstrap.add(&kernel.tree().join("lib/modules"), "/usr/lib/modules");
    bootstrap.hook(&format!("upload {} /setup", setup.display()));
    progress::step(
        "unpacking a Debian root file system (about a minute)",
        || pack(bootstrap, work.path(), &dir.join(IMAGE)),
    )
}

/// Turns the archive that `source` writes into a file system.
fn pack(source: Bootstrap, work: &Path, image: &Path) -> Result<()> {
    File::create(image)?
        .set_len(IMAGE_BYTES)
        .context("the image")?;
    let mut pack = command(program("fakeroot"), ["sh", "-c", PACK, "sh"]);
    // mkfs is among the administrator's programs.
    let path = std::env::var("PATH").unwrap_or_default();
    pack.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    source.into(pack.args([work, image]))
}
