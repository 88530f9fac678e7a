// SPDX-License-Identifier: Apache-2.0
//! ELF kernels with a PVH entry point (xen.git docs/misc/pvh.pandoc).

use std::fs::File;
use std::os::unix::fs::FileExt;

use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};
use vm_memory::Address;

use super::{BootError, HIGH_RAM, Kernel, check_room};
use crate::memory::GuestMemory;

const CLASS_64: u8 = 2;
const PT_LOAD: u32 = 1;
const PROGRAM_HEADER_BYTES: usize = 56;
/// More program headers than any kernel has.
const PROGRAM_HEADERS_MAX: u16 = 128;

/// Loads the segments; the kernel is entered at its PVH entry point.
pub(super) fn load(memory: &GuestMemory, image: &mut File) -> Result<Kernel, BootError> {
    let end = check_segments(image)?;
    check_room(memory, end)?;
    let loaded = Elf::load(memory, None, image, None).map_err(unusable)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::Unusable(
            "has no PVH entry point (a kernel needs CONFIG_PVH)",
        ));
    };
    let entry = entry.raw_value();
    if !(HIGH_RAM..end).contains(&entry) {
        return Err(BootError::Unusable("has a PVH entry point outside itself"));
    }
    Ok(Kernel {
        entry,
        end,
        initrd_max: u64::from(u32::MAX),
        setup: None,
    })
}

fn unusable(error: LoaderError) -> BootError {
    BootError::Load(error)
}

/// Checks that every segment is in the file and above 1 MiB; returns where the last one ends.
fn check_segments(image: &File) -> Result<u64, BootError> {
    let file_len = image.metadata().map_err(super::FormatError::Read)?.len();
    let truncated = |expected| BootError::Truncated {
        found: file_len,
        expected,
    };
    let mut header = [0; 64];
    image
        .read_exact_at(&mut header, 0)
        .map_err(|_| truncated(64))?;
    let (table, count) = (u64_at(&header, 32), u16_at(&header, 56));
    if header[4] != CLASS_64 {
        return Err(BootError::Unusable("is a 32-bit ELF file"));
    }
    if usize::from(u16_at(&header, 54)) != PROGRAM_HEADER_BYTES || count > PROGRAM_HEADERS_MAX {
        return Err(BootError::Unusable("has malformed ELF program headers"));
    }
    let mut end = 0;
    for index in 0..u64::from(count) {
        let at = table.saturating_add(index * PROGRAM_HEADER_BYTES as u64);
        let mut header = [0; PROGRAM_HEADER_BYTES];
        let past = at.saturating_add(PROGRAM_HEADER_BYTES as u64);
        image
            .read_exact_at(&mut header, at)
            .map_err(|_| truncated(past))?;
        if u32_at(&header, 0) == PT_LOAD && u64_at(&header, 40) != 0 {
            end = end.max(segment_end(&header, file_len)?);
        }
    }
    if end == 0 {
        return Err(BootError::Unusable("has no loadable segment"));
    }
    Ok(end)
}

/// Where a loadable segment ends in guest memory.
fn segment_end(header: &[u8; PROGRAM_HEADER_BYTES], file_len: u64) -> Result<u64, BootError> {
    let (offset, address) = (u64_at(header, 8), u64_at(header, 24));
    let (in_file, in_memory) = (u64_at(header, 32), u64_at(header, 40));
    let file_end = offset.saturating_add(in_file);
    if file_end > file_len {
        return Err(BootError::Truncated {
            found: file_len,
            expected: file_end,
        });
    }
    if address < HIGH_RAM {
        return Err(BootError::Unusable("has a segment below 1 MiB"));
    }
    if in_file > in_memory {
        return Err(BootError::Unusable(
            "has a segment that is larger in the file than in memory",
        ));
    }
    Ok(address.saturating_add(in_memory))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
