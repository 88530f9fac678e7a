// SPDX-License-Identifier: Apache-2.0
//! Guests to test with: stock Debian kernels, each with a small initrd, and a Debian root file system.
//!
//! One cache entry holds them for an architecture: for each series V of [`kernels`] `vmlinuz-V` and
//! `initrd-V.cpio`, on x86_64 `vmlinux-V`, too, the ELF file in the bzImage.

mod bzimage;
pub(crate) mod debian;
mod elf;
mod initrd;
mod kernels;
pub(crate) mod modules;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{cache, progress};
pub(crate) use kernels::{Kernel, Kernels};

/// The release whose kernel and programs the inner host runs.
pub(crate) const LAB_RELEASE: &str = "trixie";
/// The series of that release's kernel for guests with nothing particular.
const LAB_SERIES: &str = "6.12";

/// The initrd of guests with this kernel.
pub(crate) fn initrd(kernel: &Kernel, kernels: &Kernels) -> Result<Vec<u8>> {
    initrd::make(&kernel.tree(), &kernels.busybox())
}

/// The directory with everything a guest boots from.
pub(crate) fn ready(kernels: &Kernels) -> Result<PathBuf> {
    let debian = debian::ready(kernels)?;
    let recipe = [
        kernels::RECIPE,
        kernels.arch.names().debian,
        &initrd::recipe(),
        &debian::recipe(),
    ];
    cache::entry("guests", &recipe, |dir| {
        progress::step("making the guests' initrds", || {
            for kernel in kernels.all() {
                for (path, name) in kernel.files() {
                    fs::hard_link(path, dir.join(&name))
                        .with_context(|| format!("cannot link {name}"))?;
                }
                let archive = initrd(kernel, kernels)?;
                fs::write(dir.join(format!("initrd-{}.cpio", kernel.series)), archive)?;
            }
            if let Some(debian) = &debian {
                fs::hard_link(debian, dir.join(debian::IMAGE)).context("cannot link the image")?;
            }
            Ok(())
        })
    })
}
