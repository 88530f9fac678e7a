// SPDX-License-Identifier: Apache-2.0
//! Kernels and documents that cannot be right.

use crate::arch;
use crate::no_os_kernel::NoOsKernel;

pub(super) fn text() -> Vec<u8> {
    b"This is no kernel, and no JSON either.\n".repeat(100)
}

/// The kernel to spoil: an ELF file on x86_64.
fn elf() -> Vec<u8> {
    NoOsKernel::new().power_off().to_image()
}

pub(super) fn truncated_elf() -> Vec<u8> {
    let mut elf = elf();
    elf.truncate(elf.len() - 4);
    elf
}

pub(super) fn truncated_header() -> Vec<u8> {
    let mut elf = elf();
    elf.truncate(40);
    elf
}

pub(super) fn foreign_elf() -> Vec<u8> {
    let mut elf = elf();
    elf[18] = 183; // EM_AARCH64
    elf
}

pub(super) fn elf_without_pvh() -> Vec<u8> {
    let mut elf = elf();
    elf[184] = 1; // the note's type
    elf
}

/// The header of a bzImage that says there is more than follows.
pub(super) fn truncated_bzimage() -> Vec<u8> {
    let mut image = vec![0; 1024];
    image[0x1f1] = 4; // setup_sects
    image[0x1f4..0x1f8].copy_from_slice(&0x1_0000_u32.to_le_bytes()); // syssize
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x211] = 1; // loaded high
    image
}

pub(super) fn foreign_image() -> Vec<u8> {
    let mut image = vec![0; 4096];
    image[0x38..0x3c].copy_from_slice(&arch::FOREIGN_MAGIC);
    image
}

/// A good Image but for eight bytes of its header.
fn image_with(at: usize, value: u64) -> Vec<u8> {
    let mut image = elf();
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
    image
}

pub(super) fn big_endian_image() -> Vec<u8> {
    image_with(0x18, 1)
}

pub(super) fn image_without_a_size() -> Vec<u8> {
    image_with(0x10, 0)
}

pub(super) fn image_of_an_exbibyte() -> Vec<u8> {
    image_with(0x10, 1 << 60)
}

/// The header of a gzip file, and nothing behind it.
pub(super) fn gzip_cut_short() -> Vec<u8> {
    vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]
}

/// The magic number of Zstandard (RFC 8878), and noise.
pub(super) fn zstd() -> Vec<u8> {
    [&[0x28, 0xb5, 0x2f, 0xfd], &[0x5a; 4096][..]].concat()
}

/// How Linux's "zboot" begins, an EFI program with a compressed kernel in it.
pub(super) fn zboot() -> Vec<u8> {
    [&b"MZ\0\0zimg"[..], &[0; 4096]].concat()
}

pub(super) fn unknown_field() -> Vec<u8> {
    br#"{"kernel": "/boot/vmlinuz", "colour": 2}"#.to_vec()
}
