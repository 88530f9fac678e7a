// SPDX-License-Identifier: Apache-2.0
//! What QEMU is on an architecture when boots are measured beside it.

/// QEMU, and what both boot.
#[derive(Debug)]
pub struct Rival {
    /// Its program.
    pub program: &'static str,
    /// Its smallest machine.
    pub machine: &'static [&'static str],
    /// The serial port of that machine, as Linux names it.
    pub console: &'static str,
    /// Whether a kernel without an operating system speaks on that port as it does on ours.
    pub is_like_ours: bool,
    /// The series of the stock kernel.
    pub kernel: &'static str,
    /// Whether that is an ELF file, not as Debian ships it.
    pub is_elf: bool,
}
