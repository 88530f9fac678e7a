// SPDX-License-Identifier: Apache-2.0
//! Loads a kernel image, initrd and device tree into guest memory so that a hart can start in it
//! (Documentation/arch/riscv/boot.rst).

use std::fs::File;

use vm_memory::{Bytes, GuestAddress};

use super::layout;
use super::tables;
pub use super::tables::Description;
use crate::arch::fdt::{Chosen, Seed};
use crate::arch::image::{self, Header};
use crate::boot::format::{self, Format};
use crate::boot::{BootError, Images, load_initrd, refusal};
use crate::machine::MachineDesc;
use crate::memory::{self, GuestMemory};

/// The device tree gets a block of this size of its own.
const TREE_BLOCK: u64 = 2 << 20;
const MAGIC: [u8; 4] = *b"RSC\x05";

/// The address and register with which the first hart starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoint {
    /// The address of the first instruction.
    pub address: u64,
    /// The address of the device tree.
    pub device_tree: u64,
}

/// Loads kernel and initrd and writes the device tree that describes the machine.
pub fn load(
    memory: &GuestMemory,
    images: Images<'_>,
    machine: &MachineDesc,
    description: &Description,
) -> Result<EntryPoint, BootError> {
    let tables = |e: Box<dyn std::error::Error + Send + Sync>| BootError::Tables(e);
    let kernel = File::from(images.kernel);
    let is_gzip = match format::identify(&kernel)? {
        Format::RiscvImage => false,
        Format::Gzip => true,
        Format::Elf(format::Machine::RISCV) => {
            return Err(BootError::Unusable(
                "is an ELF file: take the kernel's Image (objcopy -O binary vmlinux Image)",
            ));
        }
        other => return Err(refusal(other, "neither Image nor gzip of one")),
    };
    let loaded = image::load(memory, kernel, is_gzip, layout::RAM, check)?;

    let device_tree = loaded.end.next_multiple_of(TREE_BLOCK);
    let initrd = match images.initrd {
        Some(fd) => {
            let room = device_tree + TREE_BLOCK..memory::end(memory);
            Some(load_initrd(memory, File::from(fd), room)?)
        }
        None => None,
    };
    let chosen = Chosen {
        cmdline: images.cmdline,
        initrd,
        uart: layout::UART,
        seed: Seed::fresh().map_err(|e| tables(e.into()))?,
    };
    let tree = tables::device_tree(memory, machine, description, &chosen);
    let tree = tree.map_err(|e| tables(e.into()))?;
    memory
        .write_slice(&tree, GuestAddress(device_tree))
        .map_err(BootError::Structures)?;
    Ok(EntryPoint {
        address: loaded.entry,
        device_tree,
    })
}

fn check(header: &Header) -> Result<(), BootError> {
    match header.magic {
        MAGIC => Ok(()),
        _ => Err(BootError::Unusable(
            "is compressed by gzip, and no RISC-V kernel is in it",
        )),
    }
}
