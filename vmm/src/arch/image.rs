// SPDX-License-Identifier: Apache-2.0
//! The kernel format that arm64 and RISC-V share, "Image" (Documentation/arch/arm64/booting.rst,
//! Documentation/arch/riscv/boot-image-header.rst): a header of 64 bytes in front of the code, which
//! runs anywhere that is aligned. It may be compressed by gzip.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::os::unix::fs::FileExt;

use flate2::read::GzDecoder;
use vm_memory::{Bytes, GuestAddress};

use crate::boot::BootError;
use crate::boot::format::FormatError;
use crate::memory::{self, GuestMemory};

/// The length of the header.
const HEADER_BYTES: usize = 64;
/// How much is inflated at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What of the header both architectures have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Where the image begins, behind an aligned address.
    pub(super) text_offset: u64,
    /// How much memory the kernel uses, with what is not in the file.
    pub(super) image_size: u64,
    /// Flags; bit 0: big-endian.
    pub(super) flags: u64,
    /// The magic number at 0x38.
    pub(super) magic: [u8; 4],
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let u64_at = |at: usize| {
            let mut value = [0; 8];
            value.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(value)
        };
        let mut magic = [0; 4];
        magic.copy_from_slice(&bytes[0x38..0x3c]);
        Self {
            text_offset: u64_at(0x08),
            image_size: u64_at(0x10),
            flags: u64_at(0x18),
            magic,
        }
    }
}

/// So much of a kernel gets large pages; no kernel of today takes more.
const LARGE_BYTES: u64 = 128 << 20;

/// Where a kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loaded {
    /// The address of its first instruction.
    pub(super) entry: u64,
    /// The end of the memory that it uses.
    pub(super) end: u64,
}

/// Loads an image to the first place in RAM, which begins at `ram`. `check` refuses what the
/// architecture cannot run. `is_gzip` says that the file is compressed.
pub(super) fn load(
    memory: &GuestMemory,
    mut image: File,
    is_gzip: bool,
    ram: u64,
    check: impl FnOnce(&Header) -> Result<(), BootError>,
) -> Result<Loaded, BootError> {
    image.rewind().map_err(FormatError::Read)?;
    if is_gzip {
        let mut content = GzDecoder::new(image);
        let mut head = [0; HEADER_BYTES];
        content.read_exact(&mut head).map_err(of_gzip)?;
        let loaded = place(memory, &head, None, ram, check)?;
        inflate(memory, &head, content, loaded)?;
        return Ok(loaded);
    }
    let len = image.metadata().map_err(FormatError::Read)?.len();
    let mut head = [0; HEADER_BYTES];
    let read = image.read_exact_at(&mut head, 0);
    read.map_err(|_| BootError::Truncated {
        found: len,
        expected: HEADER_BYTES as u64,
    })?;
    let loaded = place(memory, &head, Some(len), ram, check)?;
    let count = usize::try_from(len).unwrap_or(usize::MAX);
    let at = GuestAddress(loaded.entry);
    let copied = memory.read_exact_volatile_from(at, &mut image, count);
    copied.map_err(BootError::KernelLoad)?;
    Ok(loaded)
}

/// Decides where the kernel goes; `file_len` is its length, if known.
fn place(
    memory: &GuestMemory,
    head: &[u8; HEADER_BYTES],
    file_len: Option<u64>,
    ram: u64,
    check: impl FnOnce(&Header) -> Result<(), BootError>,
) -> Result<Loaded, BootError> {
    let header = Header::parse(head);
    check(&header)?;
    if header.flags & 1 != 0 {
        return Err(BootError::Unusable(
            "is big-endian, which KVM guests here are not",
        ));
    }
    if header.image_size == 0 {
        return Err(BootError::Unusable(
            "does not say how much memory it needs (image_size is 0: Linux older than 3.17)",
        ));
    }
    if !header.text_offset.is_multiple_of(4096) {
        return Err(BootError::Unusable("has a misaligned text_offset"));
    }
    let too_large = || BootError::KernelRoom {
        needs_mib: header.image_size.max(header.text_offset) >> 20,
        has_mib: (memory::end(memory) - ram) >> 20,
        place: "",
    };
    let size = header.image_size.max(file_len.unwrap_or(0));
    let entry = ram.checked_add(header.text_offset).ok_or_else(too_large)?;
    let end = entry.checked_add(size).ok_or_else(too_large)?;
    if end > memory::end(memory) {
        return Err(BootError::KernelRoom {
            needs_mib: (end - ram).div_ceil(1 << 20),
            has_mib: (memory::end(memory) - ram) >> 20,
            place: "",
        });
    }
    // Also what the kernel clears itself, behind the file; but its header may say anything.
    memory::prefer_large_pages(memory, GuestAddress(entry), size.min(LARGE_BYTES));
    Ok(Loaded { entry, end })
}

/// Writes the rest of a compressed kernel behind its header, at most as much as it says it needs.
fn inflate(
    memory: &GuestMemory,
    head: &[u8; HEADER_BYTES],
    mut content: impl Read,
    loaded: Loaded,
) -> Result<(), BootError> {
    let write = |at: u64, data: &[u8]| {
        let written = memory.write_slice(data, GuestAddress(at));
        written.map_err(BootError::KernelLoad)
    };
    write(loaded.entry, head)?;
    let mut at = loaded.entry + HEADER_BYTES as u64;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let len = match content.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(of_gzip(e)),
        };
        if at + len as u64 > loaded.end {
            return Err(BootError::Unusable("is longer than its image_size says"));
        }
        write(at, &chunk[..len])?;
        at += len as u64;
    }
}

/// What a failure to inflate says about the file.
fn of_gzip(error: std::io::Error) -> BootError {
    match error.kind() {
        ErrorKind::UnexpectedEof => BootError::Unusable("is a gzip file that is cut short"),
        ErrorKind::InvalidInput | ErrorKind::InvalidData => {
            BootError::Unusable("is a gzip file that is damaged")
        }
        _ => FormatError::Read(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const RAM: u64 = 0x8000_0000;

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(RAM), 4 << 20)]).unwrap()
    }

    fn kernel(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut image = vec![0x5a; 5000];
        image[8..16].copy_from_slice(&text_offset.to_le_bytes());
        image[16..24].copy_from_slice(&image_size.to_le_bytes());
        image[24..32].copy_from_slice(&flags.to_le_bytes());
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        image
    }

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn refused(content: &[u8], is_gzip: bool) -> String {
        let outcome = load(&memory(), file(content), is_gzip, RAM, |_| Ok(()));
        host::log::chain(&outcome.unwrap_err())
    }

    #[test]
    fn image_is_loaded_behind_its_offset_compressed_or_not() {
        let kernel = kernel(0x8_0000, 0x10_0000, 2);
        for (content, is_gzip) in [(kernel.clone(), false), (gzip(&kernel), true)] {
            let memory = memory();
            let loaded = load(&memory, file(&content), is_gzip, RAM, |header| {
                assert_eq!((header.magic, header.flags), (*b"ARM\x64", 2));
                Ok(())
            });
            let (entry, end) = (RAM + 0x8_0000, RAM + 0x18_0000);
            assert_eq!(loaded.unwrap(), Loaded { entry, end });
            let mut found = vec![0; kernel.len()];
            memory.read_slice(&mut found, GuestAddress(entry)).unwrap();
            assert_eq!(found, kernel);
        }
    }

    #[test]
    fn image_without_a_size_or_too_large_is_refused() {
        assert!(refused(&kernel(0, 0, 0), false).contains("image_size is 0"));
        assert!(refused(&kernel(0, 0x1000, 1), false).contains("big-endian"));
        let reason = refused(&kernel(0, 5 << 20, 0), false);
        assert_eq!(reason, "the kernel needs memory up to 5 MiB, there are 4");
        for size in [u64::MAX, u64::MAX - RAM] {
            assert!(refused(&kernel(0, size, 0), false).contains("needs memory"));
        }
        assert!(refused(&kernel(u64::MAX, 0x1000, 0), false).contains("text_offset"));
    }

    #[test]
    fn image_cut_or_longer_than_it_says_is_refused() {
        assert!(refused(&[1; 63], false).contains("truncated"));
        let whole = gzip(&kernel(0, 0x1000, 0));
        let reason = refused(&whole, true);
        assert_eq!(reason, "is longer than its image_size says");
        let whole = gzip(&kernel(0, 0x2000, 0));
        assert!(refused(&whole[..12], true).contains("cut short"));
        assert!(refused(&whole[..whole.len() / 2], true).contains("cut short"));
    }

    #[test]
    fn gzip_damaged_is_refused() {
        let mut whole = gzip(&kernel(0, 0x2000, 0));
        let at = whole.len() - 6;
        whole[at] ^= 0xff;
        assert!(refused(&whole, true).contains("damaged"));
    }
}
