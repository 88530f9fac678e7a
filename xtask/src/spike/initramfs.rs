// SPDX-License-Identifier: Apache-2.0
//! All that the host in Spike has.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::command::file_name;
use crate::cpio::Archive;
use crate::guests::{Kernel, modules};

const INIT: &str = include_str!("../../assets/spike-init.sh");

/// Debian's kernel for riscv64 has everything else built in.
const MODULES: &[&str] = &["kvm"];

/// The archive: busybox, modules, our programs, the guest's kernel and its initrd.
pub(super) fn make(
    kernel: &Kernel,
    busybox: &Path,
    initrd: &[u8],
    binaries: &[PathBuf],
) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in ["bin", "dev", "guest", "mod", "proc", "run", "sys", "tmp"] {
        archive.directory(dir)?;
    }
    archive.console_device()?;
    archive.program_from("bin/busybox", busybox)?;
    let mut order = String::new();
    for module in modules::in_order(&kernel.tree(), MODULES)? {
        order += &format!("{}\n", module.name);
        archive.program(&format!("mod/{}", module.name), &module.content)?;
    }
    archive.program("mod/order", order.as_bytes())?;
    for binary in binaries {
        archive.program_from(&format!("bin/{}", file_name(binary)), binary)?;
    }
    archive.program("guest/kernel", &fs::read(kernel.image())?)?;
    archive.program("guest/initrd", initrd)?;
    archive.program("init", INIT.as_bytes())?;
    archive.finish()
}
