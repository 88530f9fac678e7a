// SPDX-License-Identifier: Apache-2.0
//! Stock Debian kernels, each with its modules, and a static busybox beside them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::{LAB_RELEASE, bzimage, elf, modules};
use crate::apt::Release;
use crate::arch::Arch;
use crate::command::{command, program, quiet};
use crate::{cache, packages, progress};

/// Raise it when the way the kernels are fetched and unpacked changes.
pub(super) const RECIPE: &str = "2";

/// A kernel that Debian ships.
struct Stock {
    arch: Arch,
    release: &'static str,
    series: &'static str,
    /// The package that stands for the newest of it.
    meta: &'static str,
    /// How its file in `boot/` begins.
    image: &'static str,
}

const STOCK: &[Stock] = &[
    Stock {
        arch: Arch::X86_64,
        release: "bookworm",
        series: "6.1",
        meta: "linux-image-cloud-amd64",
        image: "vmlinuz",
    },
    Stock {
        arch: Arch::X86_64,
        release: "trixie",
        series: "6.12",
        meta: "linux-image-cloud-amd64",
        image: "vmlinuz",
    },
    Stock {
        arch: Arch::Aarch64,
        release: "bookworm",
        series: "6.1",
        meta: "linux-image-cloud-arm64",
        image: "vmlinuz",
    },
    Stock {
        arch: Arch::Aarch64,
        release: "trixie",
        series: "6.12",
        meta: "linux-image-cloud-arm64",
        image: "vmlinuz",
    },
    Stock {
        arch: Arch::Aarch64,
        release: "trixie",
        series: "6.12-16k",
        meta: "linux-image-arm64-16k",
        image: "vmlinuz",
    },
    Stock {
        arch: Arch::Riscv64,
        release: "trixie",
        series: "6.12",
        meta: "linux-image-riscv64",
        image: "vmlinux",
    },
];

/// The kernels of an architecture.
pub(crate) struct Kernels {
    pub(crate) arch: Arch,
    busybox: PathBuf,
    kernels: Vec<Kernel>,
}

/// A kernel in the cache: its image, and the tree of its package with `lib/modules/`.
pub(crate) struct Kernel {
    pub(crate) series: &'static str,
    dir: PathBuf,
}

impl Kernels {
    /// Fetches and unpacks them, unless the cache has them.
    pub(crate) fn ready(arch: Arch) -> Result<Self> {
        packages::ensure(packages::GUESTS)?;
        let of_arch = STOCK.iter().filter(|stock| stock.arch == arch);
        let busybox = [RECIPE, arch.names().debian, LAB_RELEASE];
        Ok(Self {
            arch,
            busybox: cache::entry("busybox", &busybox, |dir| {
                Release::open(LAB_RELEASE, arch)?.unpack("busybox-static", dir)
            })?,
            kernels: of_arch.map(Kernel::ready).collect::<Result<_>>()?,
        })
    }

    /// A static busybox.
    pub(crate) fn busybox(&self) -> PathBuf {
        self.busybox.join("usr/bin/busybox")
    }

    pub(crate) fn all(&self) -> &[Kernel] {
        &self.kernels
    }

    pub(crate) fn series(&self, series: &str) -> Result<&Kernel> {
        let found = self.kernels.iter().find(|kernel| kernel.series == series);
        found.with_context(|| format!("{} has no kernel {series}", self.arch))
    }
}

impl Kernel {
    fn ready(stock: &Stock) -> Result<Self> {
        let recipe = [RECIPE, stock.release, stock.series, stock.meta];
        Ok(Self {
            series: stock.series,
            dir: cache::entry("kernel", &recipe, |dir| stock.fetch(dir))?,
        })
    }

    /// The unpacked package.
    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// As Debian ships it.
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The files to boot from, each with its name among the guests.
    pub(super) fn files(&self) -> Vec<(PathBuf, String)> {
        let names = ["vmlinuz", "vmlinux"].map(|name| (self.dir.join(name), name));
        let present = names.into_iter().filter(|(path, _)| path.exists());
        present
            .map(|(path, name)| (path, format!("{name}-{}", self.series)))
            .collect()
    }
}

impl Stock {
    fn fetch(&self, dir: &Path) -> Result<()> {
        let release = Release::open(self.release, self.arch)?;
        let tree = dir.join("tree");
        fs::create_dir(&tree)?;
        release.unpack(&release.kernel(self.meta)?, &tree)?;
        if !tree.join("lib").exists() {
            fs::rename(tree.join("usr/lib"), tree.join("lib")).context("usr/lib of the kernel")?;
        }
        progress::step(&format!("unpacking the {} kernel", self.series), || {
            let version = modules::version(&tree)?;
            quiet(command(program("depmod"), ["-b"]).arg(&tree).arg(&version))?;
            let image = dir.join("vmlinuz");
            let packed = tree.join(format!("boot/{}-{version}", self.image));
            fs::rename(&packed, &image).with_context(|| packed.display().to_string())?;
            match self.arch {
                Arch::X86_64 => {
                    let unpacked = dir.join("vmlinux");
                    bzimage::extract(&image, &unpacked)?;
                    let has_entry = elf::has_pvh_note(&fs::read(&unpacked)?);
                    ensure!(has_entry, "{version} has no PVH entry point");
                }
                Arch::Aarch64 => ensure_magic(&image, b"ARM\x64")?,
                Arch::Riscv64 => ensure_magic(&image, b"RSC\x05")?,
            }
            Ok(())
        })
    }
}

/// Fails unless a kernel is what its architecture boots: an Image that is not compressed.
fn ensure_magic(image: &Path, magic: &[u8; 4]) -> Result<()> {
    const OFFSET: usize = 0x38;
    let bytes = fs::read(image)?;
    let found = bytes.get(OFFSET..OFFSET + magic.len());
    ensure!(
        found == Some(magic.as_slice()),
        "{} is no Image",
        image.display()
    );
    Ok(())
}
