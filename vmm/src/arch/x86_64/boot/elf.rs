// SPDX-License-Identifier: Apache-2.0
//! ELF kernels with a PVH entry point (xen.git docs/misc/pvh.pandoc).
//!
//! linux-loader's ELF loader only keeps the last of several note segments and rejects a file with a
//! note segment that it cannot parse; both kinds of files are legal.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress};

use super::{BootError, HIGH_RAM, Kernel, check_room};
use crate::memory::{self, GuestMemory};

const CLASS_64: u8 = 2;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (xen.git xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;
const XEN: &[u8] = b"Xen\0";
const NOTE_HEADER_BYTES: usize = 12;
/// The most bytes read of one note segment.
const NOTES_MAX_BYTES: u64 = 1 << 20;
const PROGRAM_HEADER_BYTES: usize = 56;
/// More program headers than any kernel has.
const PROGRAM_HEADERS_MAX: u16 = 128;

/// Loads the segments; the kernel is entered at its PVH entry point.
pub(super) fn load(memory: &GuestMemory, image: &mut File) -> Result<Kernel, BootError> {
    let Segments { loads, end, entry } = check_segments(image)?;
    check_room(memory, end)?;
    let entry = entry.ok_or(BootError::Unusable(
        "has no PVH entry point (a kernel needs CONFIG_PVH)",
    ))?;
    let entry = u64::from(entry);
    if !(HIGH_RAM..end).contains(&entry) {
        return Err(BootError::Unusable("has a PVH entry point outside itself"));
    }
    for load in loads {
        image
            .seek(SeekFrom::Start(load.offset))
            .map_err(super::FormatError::Read)?;
        let count = usize::try_from(load.in_file).unwrap_or(usize::MAX);
        let at = GuestAddress(load.address);
        memory::prefer_large_pages(memory, at, load.in_file);
        let copied = memory.read_exact_volatile_from(at, image, count);
        copied.map_err(BootError::KernelLoad)?;
    }
    Ok(Kernel {
        entry,
        end,
        initrd_max: u64::from(u32::MAX),
        setup: None,
    })
}

/// The content of the program headers.
struct Segments {
    loads: Vec<Load>,
    /// The end of the highest segment in guest memory.
    end: u64,
    /// The PVH entry point.
    entry: Option<u32>,
}

/// A loadable segment: the part in the file, which zeroes follow in guest memory.
struct Load {
    offset: u64,
    address: u64,
    in_file: u64,
}

/// Checks that every segment is in the file and above 1 MiB.
fn check_segments(image: &File) -> Result<Segments, BootError> {
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
    let (mut loads, mut end, mut entry) = (Vec::new(), 0, None);
    for index in 0..u64::from(count) {
        let at = table.saturating_add(index * PROGRAM_HEADER_BYTES as u64);
        let mut header = [0; PROGRAM_HEADER_BYTES];
        let past = at.saturating_add(PROGRAM_HEADER_BYTES as u64);
        image
            .read_exact_at(&mut header, at)
            .map_err(|_| truncated(past))?;
        match u32_at(&header, 0) {
            PT_LOAD if u64_at(&header, 40) != 0 => {
                end = end.max(segment_end(&header, file_len)?);
                loads.push(Load {
                    offset: u64_at(&header, 8),
                    address: u64_at(&header, 24),
                    in_file: u64_at(&header, 32),
                });
            }
            PT_NOTE if entry.is_none() => entry = pvh_entry(image, &header, file_len)?,
            _ => {}
        }
    }
    if end == 0 {
        return Err(BootError::Unusable("has no loadable segment"));
    }
    Ok(Segments { loads, end, entry })
}

/// The PVH entry point, if it is in this note segment.
fn pvh_entry(
    image: &File,
    header: &[u8; PROGRAM_HEADER_BYTES],
    file_len: u64,
) -> Result<Option<u32>, BootError> {
    let (offset, len) = (u64_at(header, 8), u64_at(header, 32));
    let end = offset.saturating_add(len);
    if end > file_len {
        return Err(BootError::Truncated {
            found: file_len,
            expected: end,
        });
    }
    let mut notes = vec![0; usize::try_from(len.min(NOTES_MAX_BYTES)).unwrap_or(0)];
    let read = image.read_exact_at(&mut notes, offset);
    read.map_err(super::FormatError::Read)?;
    // gABI: 4; a segment with alignment 8 pads names and descriptors to that.
    let align = if u64_at(header, 48) == 8 { 8 } else { 4 };
    Ok(phys32_entry(&notes, align))
}

/// The descriptor of the PHYS32_ENTRY note; `None` if there is none or the notes are malformed.
fn phys32_entry(mut notes: &[u8], align: usize) -> Option<u32> {
    while notes.len() >= NOTE_HEADER_BYTES {
        let name_len = usize::try_from(u32_at(notes, 0)).ok()?;
        let descriptor_len = usize::try_from(u32_at(notes, 4)).ok()?;
        let descriptor_at = NOTE_HEADER_BYTES.checked_add(name_len)?;
        let descriptor_at = descriptor_at.checked_next_multiple_of(align)?;
        let name = notes.get(NOTE_HEADER_BYTES..NOTE_HEADER_BYTES.checked_add(name_len)?)?;
        if u32_at(notes, 8) == PHYS32_ENTRY && name == XEN && descriptor_len >= size_of::<u32>() {
            let descriptor = notes.get(descriptor_at..descriptor_at.checked_add(4)?)?;
            return Some(u32_at(descriptor, 0));
        }
        let next = descriptor_at.checked_add(descriptor_len)?;
        notes = notes.get(next.checked_next_multiple_of(align)?..)?;
    }
    None
}

/// The end of a loadable segment in guest memory.
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
