// SPDX-License-Identifier: Apache-2.0
//! riscv64.

mod hammer;
pub mod no_os;

use anyhow::{Result, bail};

use crate::machine::Machine;
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

/// QEMU for guests of this architecture: the program, the machine, the serial port as Linux names it.
pub const QEMU: (&str, &str, &str) = ("qemu-system-riscv64", "virt,aia=aplic-imsic", "ttyS0");

/// What QEMU is told of the processor, with KVM: there is no other.
pub const QEMU_CPU: &[&str] = &["-cpu", "host"];

/// In the header of another architecture's Image, at 0x38.
pub const FOREIGN_MAGIC: [u8; 4] = *b"ARM\x64";
/// An interrupt controller of another architecture.
pub const FOREIGN_IRQCHIP: &str = "gicv3";

/// The first machine of this architecture.
pub const MACHINE: Machine = Machine::Aia;

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
