// SPDX-License-Identifier: Apache-2.0
//! Kernel files that few tools make, and what becomes of each.

use super::*;

/// A file and what is odd about it.
type Odd = (&'static str, Vec<u8>);

fn changed(mut kernel: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    kernel[at..at + bytes.len()].copy_from_slice(bytes);
    kernel
}

fn legal_elf_files() -> Vec<Odd> {
    let wide = note(b"Xen\0", 18, &ENTRY.to_le_bytes(), 4);
    let narrow = note(b"Xen\0", 18, &ENTRY.to_le_bytes()[..4], 4);
    let version = note(b"Linux\0", 0x101, b"0123456789", 4);
    let property = note(b"GNU\0", 5, &[0; 16], 8);
    let at_8 = note(b"Xen\0", 18, &ENTRY.to_le_bytes(), 8);
    let odd_name = note(b"Xen-tools\0", 18, &[0xff; 8], 8);
    let elf = |notes: &[(Vec<u8>, u64)]| elf_with(HIGH_RAM, 0x2000, notes);
    vec![
        ("ELF: entry of 4 bytes", elf(&[(narrow, 4)])),
        (
            "ELF: behind another note",
            elf(&[([&version[..], &wide].concat(), 4)]),
        ),
        (
            "ELF: before another note segment",
            elf(&[(wide.clone(), 4), (property.clone(), 8)]),
        ),
        (
            "ELF: behind another note segment",
            elf(&[(property, 8), (wide.clone(), 4)]),
        ),
        (
            "ELF: padded to 8",
            elf(&[([&odd_name[..], &at_8].concat(), 8)]),
        ),
        ("ELF: alignment 0", elf(&[(wide.clone(), 0)])),
        (
            "ELF: a note segment that holds no notes",
            elf(&[(vec![0xff; 40], 4), (wide.clone(), 4)]),
        ),
        (
            "ELF: position-independent",
            changed(elf(&[(wide, 4)]), 16, &[3]),
        ),
    ]
}

fn legal_bzimages() -> Vec<Odd> {
    let bz = bzimage();
    vec![
        ("bzImage", bz.clone()),
        (
            "bzImage: the last paragraph is one byte",
            bz[..0x13f1].to_vec(),
        ),
        (
            "bzImage: signed, longer than it says",
            [&bz[..], &[0; 999]].concat(),
        ),
        (
            "bzImage: setup_sects of 0 is 4",
            [&changed(bz.clone(), 0x1f1, &[0])[..], &[0; 0x600]].concat(),
        ),
        (
            "bzImage: protocol 2.10",
            changed(bz.clone(), 0x206, &[0x0a, 2]),
        ),
        (
            "bzImage: init_size of 0",
            changed(bz.clone(), 0x260, &[0; 4]),
        ),
        ("bzImage: with an EFI stub", changed(bz, 0, b"MZ")),
    ]
}

#[test]
fn kernel_that_is_odd_but_legal_is_loaded() {
    let files = [legal_elf_files(), legal_bzimages()].concat();
    for (what, kernel) in files {
        let loaded = loaded(&memory(8), &kernel, Some(b"initrd"));
        let entry = loaded.unwrap_or_else(|e| panic!("{what}: {}", host::log::chain(&e)));
        let expected = if what.starts_with("ELF") {
            ENTRY
        } else {
            HIGH_RAM
        };
        assert_eq!(entry.address, expected, "{what}");
    }
}

#[test]
fn kernel_that_cannot_be_booted_is_refused_with_the_reason() {
    let bz = bzimage();
    let mut pe = vec![0; 0x200];
    pe[..2].copy_from_slice(b"MZ");
    pe[0x3c] = 0x80;
    pe[0x80..0x84].copy_from_slice(b"PE\0\0");
    let no_note = note(b"Xen\0", 17, &ENTRY.to_le_bytes(), 4);
    let short = note(b"Xen\0", 18, &[1, 2], 4);
    let files = [
        (
            bz[..0x13f0].to_vec(),
            "is truncated: 5104 bytes long, 5120 are expected",
        ),
        (
            bz[..0x210].to_vec(),
            "is truncated: 528 bytes long, 620 are expected",
        ),
        (
            changed(bz.clone(), 0x1f4, &[0xff; 4]),
            "is truncated: 5120 bytes long, 68719477744 are expected",
        ),
        (
            changed(bz.clone(), 0x206, &[7]),
            "speaks boot protocol 2.07; 2.10 (Linux 2.6.31) or newer is needed: older kernels \
             start in 16-bit real mode, for which there is no firmware here",
        ),
        (
            changed(bz.clone(), 0x211, &[0]),
            "is a zImage, which runs below 1 MiB: build a bzImage",
        ),
        (
            changed(bz, 0x214, &[0; 4]),
            "has no 32-bit entry point (code32_start is below 1 MiB): it starts in 16-bit real \
             mode, for which there is no firmware here",
        ),
        (
            pe,
            "is an EFI program without a Linux setup header, and there is no firmware here: of a \
             unified kernel image take the kernel (objcopy -O binary -j .linux IMAGE KERNEL)",
        ),
        (
            elf_with(HIGH_RAM, 0x2000, &[(no_note, 4)]),
            "has no PVH entry point (a kernel needs CONFIG_PVH)",
        ),
        (
            elf_with(HIGH_RAM, 0x2000, &[(short, 4)]),
            "has no PVH entry point (a kernel needs CONFIG_PVH)",
        ),
        (
            changed(elf(HIGH_RAM, 0x2000, ENTRY), 18, &[3]),
            "is a kernel for 32-bit x86, this host runs x86_64",
        ),
        (
            changed(elf(HIGH_RAM, 0x2000, ENTRY), 120 + 8, &[0xff, 0xff, 1]),
            "is truncated: 8192 bytes long, 131095 are expected",
        ),
    ];
    for (kernel, expected) in files {
        assert_eq!(refused(&kernel, None), (About::Kernel, expected.into()));
    }
}
