// SPDX-License-Identifier: Apache-2.0
//! riscv64.

pub mod no_os;

use anyhow::{Result, bail};

use crate::rival::Rival;

/// QEMU as boots are measured beside it.
pub const RIVAL: Rival = Rival {
    program: "qemu-system-riscv64",
    machine: &["-M", "virt"],
    console: "ttyS0",
    is_like_ours: false,
    kernel: "6.12",
    is_elf: false,
};

/// `j` to itself.
pub const LOOP: [u8; 4] = [0x6f, 0x00, 0x00, 0x00];

/// Has a thread go on at `place`. Of a system call it was in the kernel has made a call to come, which
/// it forgets with the place.
pub fn go_on_at(registers: &mut libc::user_regs_struct, place: u64) {
    registers.pc = place;
}

/// Nothing here patches itself.
///
/// # Errors
/// Always.
pub fn hold_kvm() -> Result<()> {
    bail!("KVM has to be held on x86_64 only");
}
