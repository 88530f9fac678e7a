// SPDX-License-Identifier: Apache-2.0
//! x86_64.

mod hammer;
mod hold_kvm;
mod interrupts;
mod keeper;
pub mod no_os;
mod verifier;

use crate::machine::Machine;

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

/// QEMU for guests of this architecture: the program, the machine, the serial port as Linux names it.
pub const QEMU: (&str, &str, &str) = ("qemu-system-x86_64", "q35", "ttyS0");

/// What QEMU is told of the processor, with KVM: its default will do.
pub const QEMU_CPU: &[&str] = &[];

/// In the header of another architecture's Image, at 0x38.
pub const FOREIGN_MAGIC: [u8; 4] = *b"ARM\x64";
/// An interrupt controller of another architecture.
pub const FOREIGN_IRQCHIP: &str = "plic";

/// The first machine of this architecture.
pub const MACHINE: Machine = Machine::X86;

/// `jmp` to itself.
pub const LOOP: [u8; 2] = [0xeb, 0xfe];

/// Has a thread go on at `place`.
pub fn go_on_at(registers: &mut libc::user_regs_struct, place: u64) {
    registers.rip = place;
    // In no system call, which the kernel would otherwise take up again.
    registers.orig_rax = u64::MAX;
}
