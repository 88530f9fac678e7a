// SPDX-License-Identifier: Apache-2.0
//! Loads a guest so that a vCPU can start in it (Documentation/arch/arm64/booting.rst).

use super::layout;
use super::tables;
pub use super::tables::Description;
use super::vcpu::Granules;
use crate::arch::fdt::Chosen;
use crate::arch::image::Header;
pub use crate::arch::tree_boot::EntryPoint;
use crate::arch::tree_boot::{self, Target};
use crate::boot::format::{Format, Machine};
use crate::boot::{BootError, Images};
use crate::machine::MachineDesc;
use crate::memory::GuestMemory;

const TARGET: Target = Target {
    format: Format::Arm64Image,
    elf: Machine::AARCH64,
    magic: *b"ARM\x64",
    ram: layout::RAM,
    // Kernel and initrd must be within this, counted from a multiple of 1 GiB.
    initrd_reach: 32 << 30,
    uart: layout::UART,
};

/// Loads kernel and initrd and writes the device tree that describes the machine.
pub fn load(
    memory: &GuestMemory,
    images: Images<'_>,
    machine: &MachineDesc,
    description: &Description,
) -> Result<EntryPoint, BootError> {
    let check = |header: &Header| check(header, description.granules);
    let tree = |chosen: &Chosen<'_>| tables::device_tree(memory, machine, description, chosen);
    tree_boot::load(memory, images, &TARGET, check, tree)
}

/// Refuses what this processor cannot run.
fn check(header: &Header, granules: Option<Granules>) -> Result<(), BootError> {
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

    fn header(flags: u64) -> Header {
        Header {
            text_offset: 0,
            image_size: 1,
            flags,
            magic: TARGET.magic,
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
            assert!(check(&header(flags), a57).is_ok());
        }
        let error = check(&header(4), a57).unwrap_err();
        assert!(error.to_string().contains("16 KiB"));
    }
}
