// SPDX-License-Identifier: Apache-2.0
//! What can be known about a kernel image of any architecture before loading it.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How many bytes of an image determine its format.
const HEAD_BYTES: usize = 4096;

/// The format of a kernel image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An ELF executable.
    Elf(Machine),
    /// The x86 Linux boot protocol.
    BzImage,
    /// The arm64 Linux boot protocol.
    Arm64Image,
    /// The RISC-V Linux boot protocol.
    RiscvImage,
    /// A gzip file.
    Gzip,
    /// A PE executable without a bzImage header: an EFI program.
    Pe,
    /// An EFI program that holds a compressed kernel ("zboot").
    Zboot,
    /// None of these.
    Unknown,
}

/// The `e_machine` of an ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine(pub u16);

impl Machine {
    /// 32-bit x86
    pub const I386: Self = Self(3);
    /// x86_64
    pub const X86_64: Self = Self(62);
    /// AArch64
    pub const AARCH64: Self = Self(183);
    /// RISC-V
    pub const RISCV: Self = Self(243);
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::X86_64 => f.write_str("x86_64"),
            Self::I386 => f.write_str("32-bit x86"),
            Self::AARCH64 => f.write_str("aarch64"),
            Self::RISCV => f.write_str("riscv"),
            Self(number) => write!(f, "ELF machine {number}"),
        }
    }
}

/// Why an image cannot be a kernel.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read.
    #[error("cannot be read")]
    Read(#[source] std::io::Error),
    /// It is empty.
    #[error("is empty")]
    Empty,
}

/// Determines the format from the beginning of an image.
pub fn identify(image: &File) -> Result<Format, FormatError> {
    let mut head = vec![0; HEAD_BYTES];
    let mut len = 0;
    while len < head.len() {
        match image
            .read_at(&mut head[len..], len as u64)
            .map_err(FormatError::Read)?
        {
            0 => break,
            more => len += more,
        }
    }
    head.truncate(len);
    if head.is_empty() {
        return Err(FormatError::Empty);
    }
    Ok(format_of(&head).unwrap_or(Format::Unknown))
}

fn format_of(head: &[u8]) -> Option<Format> {
    let has =
        |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|h| h.starts_with(magic));
    if has(0, b"\x7fELF") {
        let machine = head.get(18..20)?;
        return Some(Format::Elf(Machine(u16::from_le_bytes([
            machine[0], machine[1],
        ]))));
    }
    if has(0x202, b"HdrS") {
        return Some(Format::BzImage);
    }
    if has(0, b"MZ") && has(4, b"zimg") {
        return Some(Format::Zboot);
    }
    if has(0x38, b"ARM\x64") {
        return Some(Format::Arm64Image);
    }
    if has(0x38, b"RSC\x05") {
        return Some(Format::RiscvImage);
    }
    if has(0, b"\x1f\x8b") {
        return Some(Format::Gzip);
    }
    let pe_at = head.get(0x3c..0x40).map(|at| {
        u32::from_le_bytes([at[0], at[1], at[2], at[3]])
            .try_into()
            .unwrap_or(usize::MAX)
    });
    let is_pe = has(0, b"MZ") && pe_at.is_some_and(|at| has(at, b"PE\0\0"));
    is_pe.then_some(Format::Pe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn identified(content: &[u8]) -> Result<Format, FormatError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        identify(&file)
    }

    fn with_magic(offset: usize, magic: &[u8]) -> Vec<u8> {
        let mut content = vec![0; 0x1000];
        content[offset..offset + magic.len()].copy_from_slice(magic);
        content
    }

    #[test]
    fn image_is_known_by_its_magic() {
        let mut elf = with_magic(0, b"\x7fELF");
        elf[18] = 183;
        let mut pe = with_magic(0x80, b"PE\0\0");
        pe[..2].copy_from_slice(b"MZ");
        pe[0x3c] = 0x80;
        let mut zboot = pe.clone();
        zboot[4..8].copy_from_slice(b"zimg");
        for (content, format) in [
            (elf, Format::Elf(Machine::AARCH64)),
            (pe, Format::Pe),
            (zboot, Format::Zboot),
            (with_magic(0x202, b"HdrS"), Format::BzImage),
            (with_magic(0x38, b"ARM\x64"), Format::Arm64Image),
            (with_magic(0x38, b"RSC\x05"), Format::RiscvImage),
            (with_magic(0, b"\x1f\x8b"), Format::Gzip),
        ] {
            assert_eq!(identified(&content).unwrap(), format);
        }
    }

    #[test]
    fn image_empty_or_unknown_is_told_apart() {
        assert!(matches!(identified(b""), Err(FormatError::Empty)));
        for content in [
            &b"#!/bin/sh\n"[..],
            b"\x7fELF",
            &[0; 8192],
            &with_magic(0, b"MZ"),
        ] {
            assert_eq!(identified(content).unwrap(), Format::Unknown);
        }
    }
}
