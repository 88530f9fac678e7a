// SPDX-License-Identifier: Apache-2.0
//! x86_64.

mod hammer;
mod hold_kvm;
pub mod no_os;
mod verifier;

pub use hold_kvm::run as hold_kvm;

use crate::rival::Rival;

/// QEMU as boots are measured beside it.
pub const RIVAL: Rival = Rival {
    program: "qemu-system-x86_64",
    machine: &["-M", "microvm,pit=off,pic=off,rtc=on"],
    console: "ttyS0",
    is_like_ours: true,
    kernel: "6.1",
    is_elf: true,
};

/// `jmp` to itself.
pub const LOOP: [u8; 2] = [0xeb, 0xfe];

/// Has a thread go on at `place`.
pub fn go_on_at(registers: &mut libc::user_regs_struct, place: u64) {
    registers.rip = place;
    // In no system call, which the kernel would otherwise take up again.
    registers.orig_rax = u64::MAX;
}
