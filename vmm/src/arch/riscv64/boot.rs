// SPDX-License-Identifier: Apache-2.0
//! Loads a guest so that a hart can start in it (Documentation/arch/riscv/boot.rst).

use super::layout;
use super::tables;
pub use super::tables::Description;
use crate::arch::fdt::Chosen;
pub use crate::arch::tree_boot::EntryPoint;
use crate::arch::tree_boot::{self, Target};
use crate::boot::format::{Format, Machine};
use crate::boot::{BootError, Images};
use crate::machine::MachineDesc;
use crate::memory::GuestMemory;

const TARGET: Target = Target {
    format: Format::RiscvImage,
    elf: Machine::RISCV,
    magic: *b"RSC\x05",
    ram: layout::RAM,
    initrd_reach: u64::MAX,
    uart: layout::UART,
};

/// Loads kernel and initrd and writes the device tree that describes the machine.
pub fn load(
    memory: &GuestMemory,
    images: Images<'_>,
    machine: &MachineDesc,
    description: &Description,
) -> Result<EntryPoint, BootError> {
    let tree = |chosen: &Chosen<'_>| tables::device_tree(memory, machine, description, chosen);
    tree_boot::load(memory, images, &TARGET, |_| Ok(()), tree)
}
