// SPDX-License-Identifier: Apache-2.0
//! The kernel command line: its default, and how long it may be.

use std::path::PathBuf;

use crate::{Console, Disk, SpecError};

/// The longest kernel command line, in bytes: what Linux keeps (COMMAND_LINE_SIZE), less its NUL.
pub const CMDLINE_MAX_BYTES: usize = cmdline_max_bytes(std::env::consts::ARCH);

/// What Linux keeps on an architecture.
const fn cmdline_max_bytes(arch: &str) -> usize {
    match arch.as_bytes() {
        b"riscv64" => 1023,
        _ => 2047,
    }
}

/// The default kernel command line: the console is COM1, a panic reboots after a second instead of
/// hanging for ever, and without an initrd the disk that the guest finds
/// first is the root.
pub(crate) fn default_cmdline(
    console: &Console,
    initrd: Option<&PathBuf>,
    disks: &[Disk],
) -> String {
    let mut words = vec!["panic=1"];
    if *console != Console::None {
        words.insert(0, "console=ttyS0");
    }
    match disks.iter().min_by_key(|disk| disk.slot) {
        Some(disk) if initrd.is_none() => {
            words.push("root=/dev/vda");
            words.push(if disk.readonly { "ro" } else { "rw" });
        }
        _ => {}
    }
    words.join(" ")
}

/// Refuses one that Linux would cut.
pub(crate) fn check_cmdline(cmdline: &str) -> Result<(), SpecError> {
    let shown = || match cmdline.char_indices().nth(32) {
        Some((end, _)) => format!("{}…", &cmdline[..end]),
        None => cmdline.to_string(),
    };
    if cmdline.len() > CMDLINE_MAX_BYTES {
        let reason = format!(
            "is {} bytes long, at most {CMDLINE_MAX_BYTES} fit",
            cmdline.len()
        );
        return Err(SpecError::new("cmdline", shown(), reason));
    }
    if cmdline.contains('\0') {
        return Err(SpecError::new(
            "cmdline",
            shown(),
            "must not hold a NUL byte",
        ));
    }
    Ok(())
}
