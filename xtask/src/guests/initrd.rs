// SPDX-License-Identifier: Apache-2.0
//! A guest's initrd: busybox, a few modules and an init that does what the command line says.

use std::path::Path;

use anyhow::Result;

use super::modules;
use crate::cpio::Archive;

const INIT: &str = include_str!("../../assets/guest-init.sh");

/// Modules that the initrd carries; which are loaded is the init's decision.
const MODULES: &[&str] = &[
    "button",
    "evdev",
    "gpio_keys",
    "pvpanic",
    "pvpanic-mmio",
    "virtio_pci",
    "crc32c_generic",
    "ext4",
    "virtio_blk",
    "virtio_input",
    "virtio_net",
    "af_packet",
    "virtiofs",
];

/// What the init calls.
const APPLETS: &[&str] = &[
    "sh",
    "mount",
    "cat",
    "head",
    "dd",
    "grep",
    "insmod",
    "ls",
    "nproc",
    "poweroff",
    "ps",
    "reboot",
    "setsid",
    "cttyhack",
    "sleep",
    "stty",
    "uname",
    "ip",
    "free",
    "dmesg",
    "top",
    "vi",
    "sync",
    "wc",
    "mkdir",
    "mknod",
    "umount",
    "switch_root",
    "seq",
    "sha256sum",
    "lsmod",
    "date",
    "hexdump",
    "devmem",
    "time",
    "true",
    "cp",
    "mv",
    "rm",
    "find",
    "sed",
    "awk",
    "cut",
    "tr",
    "sort",
    "tail",
    "which",
    "echo",
    "printf",
    "test",
    "[",
    "kill",
    "killall",
    "ping",
    "udhcpc",
    "nc",
    "chmod",
    "blockdev",
    "taskset",
    "hostname",
];

/// Everything the initrds are made from, for the cache's key.
pub(crate) fn recipe() -> String {
    format!("{INIT}\n{MODULES:?}\n{APPLETS:?}")
}

/// The initrd for the kernel unpacked in `tree`.
pub(crate) fn make(tree: &Path, busybox: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for dir in ["dev", "proc", "sys", "bin", "mod", "tmp", "etc", "root"] {
        archive.directory(dir)?;
    }
    archive.console_device()?;
    archive.program_from("bin/busybox", busybox)?;
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    add_modules(&mut archive, tree)?;
    archive.program("init", INIT.as_bytes())?;
    archive.finish()
}

/// The modules, and `mod/order` with a line for each: its name, then the files to insert.
fn add_modules(archive: &mut Archive, tree: &Path) -> Result<()> {
    let mut order = String::new();
    let mut added = Vec::new();
    for wanted in MODULES {
        order.push_str(wanted);
        for module in modules::in_order(tree, &[wanted])? {
            order.push_str(&format!(" {}", module.name));
            if !added.contains(&module.name) {
                archive.program(&format!("mod/{}", module.name), &module.content)?;
                added.push(module.name);
            }
        }
        order.push('\n');
    }
    archive.program("mod/order", order.as_bytes())
}
