// SPDX-License-Identifier: Apache-2.0
//! Loads a kernel image, initrd and device tree into guest memory so that a vCPU can start in it
//! (Documentation/arch/arm64/booting.rst).

use std::fs::File;

use vm_memory::{Bytes, GuestAddress};

use super::layout;
use super::tables;
pub use super::tables::Description;
use super::vcpu::Granules;
use crate::arch::fdt::{Chosen, Seed};
use crate::arch::image::{self, Header};
use crate::boot::format::{self, Format};
use crate::boot::{BootError, Images, load_initrd, refusal};
use crate::machine::MachineDesc;
use crate::memory::{self, GuestMemory};

/// Linux maps the device tree in one block of this size, which it must not leave.
const TREE_BLOCK: u64 = 2 << 20;
/// Kernel and initrd must be within this, counted from a multiple of 1 GiB.
const INITRD_REACH: u64 = 32 << 30;
const MAGIC: [u8; 4] = *b"ARM\x64";

/// The address and register with which the first vCPU starts.
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
        Format::Arm64Image => false,
        Format::Gzip => true,
        Format::Elf(format::Machine::AARCH64) => {
            return Err(BootError::Unusable(
                "is an ELF file: take the kernel's Image (objcopy -O binary vmlinux Image)",
            ));
        }
        other => return Err(refusal(other, "neither Image nor gzip of one")),
    };
    let check = |header: &Header| check(header, description.granules);
    let loaded = image::load(memory, kernel, is_gzip, layout::RAM, check)?;

    let device_tree = loaded.end.next_multiple_of(TREE_BLOCK);
    let top = memory::end(memory).min(layout::RAM + INITRD_REACH);
    let initrd = match images.initrd {
        Some(fd) => {
            let room = device_tree + TREE_BLOCK..top;
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

/// Refuses what this processor cannot run.
fn check(header: &Header, granules: Option<Granules>) -> Result<(), BootError> {
    if header.magic != MAGIC {
        return Err(BootError::Unusable(
            "is compressed by gzip, and no arm64 kernel is in it",
        ));
    }
    let Some(granules) = granules else {
        return Ok(());
    };
    // Such a kernel would stop before its first message.
    match header.flags >> 1 & 3 {
        1 if !granules.kib_4 => Err(BootError::Unusable(
            "has pages of 4 KiB, which this processor lacks",
        )),
        2 if !granules.kib_16 => Err(BootError::Unusable(
            "has pages of 16 KiB, which this processor lacks",
        )),
        3 if !granules.kib_64 => Err(BootError::Unusable(
            "has pages of 64 KiB, which this processor lacks",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(magic: [u8; 4], flags: u64) -> Header {
        Header {
            text_offset: 0,
            image_size: 1,
            flags,
            magic,
        }
    }

    #[test]
    fn kernel_whose_pages_the_processor_lacks_is_refused() {
        let a57 = Some(Granules {
            kib_4: true,
            kib_16: false,
            kib_64: true,
        });
        for flags in [0, 2, 6, 10] {
            assert!(check(&header(MAGIC, flags), a57).is_ok());
        }
        let error = check(&header(MAGIC, 4), a57).unwrap_err();
        assert!(error.to_string().contains("16 KiB"));
        assert!(check(&header(*b"RSC\x05", 2), a57).is_err());
    }
}
