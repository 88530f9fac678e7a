// SPDX-License-Identifier: Apache-2.0
use super::*;
use ipc::control::About;
use ipc::memfd::{Backing, shared};
use ipc::record::Pages;
use std::io::Write;
use std::os::fd::OwnedFd;

mod odd_files;

const ENTRY: u64 = HIGH_RAM + 0x100;

fn memory(mib: u64) -> GuestMemory {
    let memfd = shared("ram", mib << 20, Backing::Shmem).unwrap();
    let how = memory::Mapping {
        pages: Pages::Base,
        prefault: false,
    };
    memory::map(memfd, &layout::ram_regions(mib << 20), how).unwrap()
}

fn file(content: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file.into()
}

/// A note as it is in a file.
fn note(name: &[u8], kind: u32, descriptor: &[u8], align: usize) -> Vec<u8> {
    let mut note = Vec::new();
    let [name_len, descriptor_len] =
        [name, descriptor].map(|part| u32::try_from(part.len()).unwrap());
    for word in [name_len, descriptor_len, kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [name, descriptor] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(align), 0);
    }
    note
}

/// An ELF file of one page of code at `address`, with a PVH note that names `entry`.
fn elf(address: u64, memory_bytes: u64, entry: u64) -> Vec<u8> {
    let pvh = note(b"Xen\0", 18, &entry.to_le_bytes(), 4);
    elf_with(address, memory_bytes, &[(pvh, 4)])
}

/// An ELF file of one page of code at `address`, with note segments and their alignment.
fn elf_with(address: u64, memory_bytes: u64, notes: &[(Vec<u8>, u64)]) -> Vec<u8> {
    let mut image = vec![0; 0x1000];
    image[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    let mut segments = vec![[1, 0x1000, address, 0x1000, memory_bytes, 0x1000]];
    let mut at = 0x200_usize;
    for (note, align) in notes {
        let len = note.len() as u64;
        segments.push([4, at as u64, 0, len, len, *align]);
        image[at..at + note.len()].copy_from_slice(note);
        at += note.len().next_multiple_of(8);
    }
    let mut put = |at: usize, value: u64, len: usize| {
        image[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    };
    put(16, 2, 2);
    put(18, 62, 2);
    put(24, address, 8);
    put(32, 64, 8);
    put(52, 64, 2);
    put(54, 56, 2);
    put(56, segments.len() as u64, 2);
    // Type, flags, offset, vaddr, paddr, file size, memory size, alignment.
    for (at, fields) in (64..).step_by(56).zip(segments) {
        let [kind, offset, address, in_file, in_memory, align] = fields;
        put(at, kind, 4);
        put(at + 8, offset, 8);
        put(at + 24, address, 8);
        put(at + 32, in_file, 8);
        put(at + 40, in_memory, 8);
        put(at + 48, align, 8);
    }
    image.extend([0xf4; 0x1000]);
    image
}

/// A bzImage of one setup sector and a protected-mode part of 0x1000 bytes.
fn bzimage() -> Vec<u8> {
    let mut kernel = vec![0; 0x1400];
    kernel[0x1f1] = 1;
    kernel[0x1f4..0x1f8].copy_from_slice(&0x100_u32.to_le_bytes());
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    kernel[0x211] = 1;
    kernel[0x214..0x218].copy_from_slice(&0x10_0000_u32.to_le_bytes());
    kernel[0x22c..0x230].copy_from_slice(&u32::MAX.to_le_bytes());
    kernel[0x258..0x260].copy_from_slice(&HIGH_RAM.to_le_bytes());
    kernel[0x260..0x264].copy_from_slice(&0x2000_u32.to_le_bytes());
    kernel
}

fn loaded(
    memory: &GuestMemory,
    kernel: &[u8],
    initrd: Option<&[u8]>,
) -> Result<EntryPoint, BootError> {
    let images = Images {
        kernel: file(kernel),
        initrd: initrd.map(file),
        cmdline: "quiet",
    };
    let machine = MachineDesc {
        cpus: 1,
        pci: layout::pci_windows(memory::end(memory)),
        slots: Vec::new(),
        board_button: true,
    };
    load(memory, images, &machine, &Description)
}

fn refused(kernel: &[u8], initrd: Option<&[u8]>) -> (About, String) {
    let error = loaded(&memory(4), kernel, initrd).unwrap_err();
    (error.about(), host::log::chain(&error))
}

#[test]
fn elf_with_pvh_note_is_loaded_and_entered_there() {
    let memory = memory(8);
    let initrd = vec![7; 5000];
    let entry = loaded(&memory, &elf(HIGH_RAM, 0x2000, ENTRY), Some(&initrd)).unwrap();
    assert_eq!((entry.address, entry.ebx), (ENTRY, layout::PVH));
    assert_eq!(memory.read_obj::<u8>(GuestAddress(ENTRY)).unwrap(), 0xf4);
    let mut cmdline = [0; 6];
    memory
        .read_slice(&mut cmdline, GuestAddress(layout::CMDLINE))
        .unwrap();
    assert_eq!(&cmdline, b"quiet\0");
    let mut reset = [0; 5];
    memory
        .read_slice(&mut reset, GuestAddress(0xf_fff0))
        .unwrap();
    assert_eq!(reset, [0xba, 0x02, 0x06, 0xb0, 1]);
    // The one module is the initrd, at the end of memory.
    let module: [u64; 2] = memory.read_obj(GuestAddress(layout::PVH + 0x40)).unwrap();
    assert_eq!(module, [(8 << 20) - 0x2000, 5000]);
    assert_eq!(
        memory
            .read_obj::<u8>(GuestAddress(module[0] + 4999))
            .unwrap(),
        7
    );
}

#[test]
fn elf_cut_anywhere_is_refused_as_a_kernel() {
    let whole = elf(HIGH_RAM, 0x2000, ENTRY);
    for len in [1, 20, 63, 64, 100, 176, 0x1000, 0x1fff] {
        let (about, reason) = refused(&whole[..len], None);
        assert_eq!(about, About::Kernel, "{len}: {reason}");
    }
    let (_, reason) = refused(&whole[..0x1fff], None);
    assert_eq!(reason, "is truncated: 8191 bytes long, 8192 are expected");
}

#[test]
fn elf_of_another_machine_is_refused_by_name() {
    let mut kernel = elf(HIGH_RAM, 0x2000, ENTRY);
    kernel[18] = 183;
    let (about, reason) = refused(&kernel, None);
    assert_eq!(about, About::Kernel);
    assert_eq!(reason, "is a kernel for aarch64, this host runs x86_64");
}

#[test]
fn elf_that_would_overwrite_boot_structures_or_leave_memory_is_refused() {
    assert_eq!(refused(&elf(0x1000, 0x2000, ENTRY), None).0, About::Kernel);
    assert_eq!(refused(&elf(HIGH_RAM, 64 << 20, ENTRY), None).0, About::Mem);
    assert_eq!(
        refused(&elf(u64::MAX - 0xfff, 0x2000, ENTRY), None).0,
        About::Mem
    );
    assert_eq!(
        refused(&elf(HIGH_RAM, 0x2000, 0x50_0000), None).0,
        About::Kernel
    );
}

#[test]
fn initrd_empty_or_too_large_is_refused() {
    let kernel = elf(HIGH_RAM, 0x2000, ENTRY);
    assert_eq!(
        refused(&kernel, Some(b"")),
        (About::Initrd, "is empty".into())
    );
    let (about, reason) = refused(&kernel, Some(&vec![0; 3 << 20]));
    assert_eq!(about, About::Initrd);
    assert_eq!(reason, "is 3 MiB large, 2 MiB are left behind the kernel");
}

#[test]
fn memory_map_leaves_out_the_hole() {
    let map = memory_map(&memory(4 << 10));
    let ram: u64 = map
        .iter()
        .filter(|r| r.2 == RangeKind::Ram)
        .map(|r| r.1)
        .sum();
    assert_eq!(ram, (4 << 30) - (HIGH_RAM - layout::LOW_RAM_END));
    assert!(map.contains(&(4 << 30, 1 << 30, RangeKind::Ram)));
}
