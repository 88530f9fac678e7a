// SPDX-License-Identifier: Apache-2.0
//! Guests to test with: stock Debian cloud kernels, as bzImage and as ELF, each with a small initrd.
//!
//! One cache entry holds `vmlinuz-V`, `vmlinux-V` and `initrd-V.cpio` for V of 6.1 and 6.12, the tree of
//! the inner host's own kernel and a static busybox. Another holds a Debian root file system.

mod bzimage;
mod debian;
mod elf;
mod initrd;
pub(crate) mod modules;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::apt::Release;
use crate::command::{command, quiet};
use crate::{cache, packages, progress};

/// Raise it when the way the kernels are fetched and unpacked changes.
const RECIPE: &str = "1";

/// A Debian release and the series of its stock kernel.
struct Stock {
    release: &'static str,
    series: &'static str,
}

const STOCK: [Stock; 2] = [
    Stock {
        release: "bookworm",
        series: "6.1",
    },
    Stock {
        release: "trixie",
        series: "6.12",
    },
];

/// The release whose kernel and programs the inner host runs.
pub(crate) const LAB_RELEASE: &str = "trixie";

/// Where the kernels are; the initrds are made anew from them when their recipe changes.
pub(crate) struct Kernels {
    dir: PathBuf,
}

impl Kernels {
    /// Fetches and unpacks them, unless the cache has them.
    pub(crate) fn ready() -> Result<Self> {
        packages::ensure(packages::GUESTS)?;
        let dir = cache::entry("kernels", &[RECIPE], |dir| {
            STOCK.iter().try_for_each(|stock| fetch(stock, dir))
        })?;
        Ok(Self { dir })
    }

    /// The unpacked kernel package of a release: `boot/` and `lib/modules/`.
    pub(crate) fn tree(&self, release: &str) -> PathBuf {
        self.dir.join(release)
    }

    /// A static busybox.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.tree(LAB_RELEASE).join("usr/bin/busybox")
    }

    /// The kernel that the inner host runs.
    pub(crate) fn lab_kernel(&self) -> PathBuf {
        self.dir.join("vmlinuz-6.12")
    }
}

/// The directory with everything a guest boots from.
pub(crate) fn ready(kernels: &Kernels) -> Result<PathBuf> {
    let debian = debian::ready(kernels)?;
    let recipe = [RECIPE, &initrd::recipe(), &debian::recipe()];
    cache::entry("guests", &recipe, |dir| {
        progress::step("making the guests' initrds", || {
            for Stock { release, series } in &STOCK {
                for name in [format!("vmlinuz-{series}"), format!("vmlinux-{series}")] {
                    fs::hard_link(kernels.dir.join(&name), dir.join(&name))
                        .with_context(|| format!("cannot link {name}"))?;
                }
                let archive = initrd::make(&kernels.tree(release), &kernels.busybox())?;
                fs::write(dir.join(format!("initrd-{series}.cpio")), archive)?;
            }
            fs::hard_link(&debian, dir.join(debian::IMAGE)).context("cannot link the image")
        })
    })
}

fn fetch(stock: &Stock, dir: &Path) -> Result<()> {
    let release = Release::open(stock.release)?;
    let tree = dir.join(stock.release);
    fs::create_dir(&tree)?;
    release.unpack(&release.cloud_kernel()?, &tree)?;
    if stock.release == LAB_RELEASE {
        release.unpack("busybox-static", &tree)?;
        fs::rename(tree.join("usr/lib"), tree.join("lib")).context("usr/lib of the kernel")?;
    }
    progress::step(&format!("unpacking the {} kernel", stock.series), || {
        let version = modules::version(&tree)?;
        let depmod = crate::command::program("depmod");
        quiet(command(depmod, ["-b"]).arg(&tree).arg(&version))?;
        let packed = dir.join(format!("vmlinuz-{}", stock.series));
        fs::rename(tree.join(format!("boot/vmlinuz-{version}")), &packed)?;
        let unpacked = dir.join(format!("vmlinux-{}", stock.series));
        bzimage::extract(&packed, &unpacked)?;
        ensure!(
            elf::has_pvh_note(&fs::read(&unpacked)?),
            "{version} has no PVH entry point"
        );
        Ok(())
    })
}
