// SPDX-License-Identifier: Apache-2.0
//! Loads a guest on the architectures whose kernels are an Image and are told of the machine by a
//! device tree: the kernel first, then the tree in a block of its own, the initrd at the end of RAM.

use std::fs::File;

use log::warn;
use vm_memory::{Bytes, GuestAddress};

use super::fdt::{Chosen, Seed};
use super::image::{self, Header};
use crate::boot::format::{self, Format};
use crate::boot::{BootError, Images, load_initrd, refusal};
use crate::memory::{self, GuestMemory, Region};

/// Linux maps the device tree in one block of this size, which it must not leave.
const TREE_BLOCK: u64 = 2 << 20;

/// What an architecture's kernels and machines are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// The format of kernels.
    pub(super) format: Format,
    /// ELF files of the architecture, which are no kernels here.
    pub(super) elf: format::Machine,
    /// The magic number of kernels.
    pub(super) magic: [u8; 4],
    /// Where RAM begins.
    pub(super) ram: u64,
    /// How far behind that an initrd may end.
    pub(super) initrd_reach: u64,
    /// The serial port.
    pub(super) uart: Region,
}

/// The address and register with which the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryPoint {
    /// The address of the first instruction.
    pub address: u64,
    /// The address of the device tree.
    pub device_tree: u64,
}

/// Loads kernel and initrd, and writes the device tree that `tree` makes. `check` refuses a kernel
/// that the processor cannot run.
pub(super) fn load(
    memory: &GuestMemory,
    images: Images<'_>,
    target: &Target,
    check: impl FnOnce(&Header) -> Result<(), BootError>,
    tree: impl FnOnce(&Chosen<'_>) -> Result<Vec<u8>, vm_fdt::Error>,
) -> Result<EntryPoint, BootError> {
    let kernel = File::from(images.kernel);
    let is_gzip = match format::identify(&kernel)? {
        format if format == target.format => false,
        Format::Gzip => true,
        Format::Elf(machine) if machine == target.elf => {
            return Err(BootError::Unusable(
                "is an ELF file: take the kernel's Image (objcopy -O binary vmlinux Image)",
            ));
        }
        other => return Err(refusal(other, "neither Image nor gzip of one")),
    };
    let loaded = image::load(memory, kernel, is_gzip, target.ram, |header| {
        if header.magic != target.magic {
            return Err(BootError::Unusable(
                "is compressed by gzip, and no kernel for this host is in it",
            ));
        }
        check(header)
    })?;
    let device_tree = loaded.end.next_multiple_of(TREE_BLOCK);
    let top = memory::end(memory).min(target.ram.saturating_add(target.initrd_reach));
    let initrd = match images.initrd {
        Some(fd) => {
            let room = device_tree + TREE_BLOCK..top;
            Some(load_initrd(memory, File::from(fd), room)?)
        }
        None => None,
    };
    let seed = Seed::at_hand();
    if seed.is_none() {
        warn!("this host has no random bytes yet: the guest starts without a seed");
    }
    let chosen = Chosen {
        cmdline: images.cmdline,
        initrd,
        uart: target.uart,
        seed,
    };
    let tree = tree(&chosen).map_err(|e| BootError::Tables(e.into()))?;
    if tree.len() as u64 > TREE_BLOCK {
        return Err(BootError::Tables("the device tree is too long".into()));
    }
    memory
        .write_slice(&tree, GuestAddress(device_tree))
        .map_err(BootError::Structures)?;
    Ok(EntryPoint {
        address: loaded.entry,
        device_tree,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use ipc::control::About;

    use super::*;

    const RAM: u64 = 0x8000_0000;
    const TARGET: Target = Target {
        format: Format::Arm64Image,
        elf: format::Machine::AARCH64,
        magic: *b"ARM\x64",
        ram: RAM,
        initrd_reach: u64::MAX,
        uart: Region {
            base: 0x1000_0000,
            len_bytes: 8,
        },
    };

    fn memory(mib: usize) -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(RAM), mib << 20)]).unwrap()
    }

    fn file(content: &[u8]) -> OwnedFd {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.into()
    }

    fn kernel(magic: &[u8; 4]) -> Vec<u8> {
        let mut image = vec![0x5a; 5000];
        image[..0x38].fill(0);
        image[16..24].copy_from_slice(&0x10_0000_u64.to_le_bytes());
        image[0x38..0x3c].copy_from_slice(magic);
        image
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
        load(
            memory,
            images,
            &TARGET,
            |_| Ok(()),
            |chosen| {
                let told = chosen.initrd.map(|initrd| (initrd.base, initrd.len));
                Ok(format!("{} {told:x?}", chosen.cmdline).into_bytes())
            },
        )
    }

    fn refused(kernel: &[u8], initrd: Option<&[u8]>) -> (About, String) {
        let error = loaded(&memory(8), kernel, initrd).unwrap_err();
        (error.about(), host::log::chain(&error))
    }

    #[test]
    fn tree_follows_the_kernel_and_the_initrd_is_at_the_end() {
        let memory = memory(8);
        let entry = loaded(&memory, &kernel(b"ARM\x64"), Some(&[7; 5000])).unwrap();
        assert_eq!((entry.address, entry.device_tree), (RAM, RAM + (2 << 20)));
        let mut tree = [0; 28];
        let at = GuestAddress(entry.device_tree);
        memory.read_slice(&mut tree, at).unwrap();
        assert_eq!(&tree, b"quiet Some((807fe000, 1388))");
    }

    #[test]
    fn initrd_that_would_reach_into_the_tree_is_refused() {
        let (about, reason) = refused(&kernel(b"ARM\x64"), Some(&vec![0; 5 << 20]));
        assert_eq!(about, About::Initrd);
        assert_eq!(reason, "is 5 MiB large, 4 MiB are left behind the kernel");
    }

    #[test]
    fn kernel_of_another_format_or_architecture_is_refused_with_the_remedy() {
        let mut elf = vec![0; 100];
        elf[..4].copy_from_slice(b"\x7fELF");
        elf[18] = 183;
        assert!(refused(&elf, None).1.contains("objcopy"));
        elf[18] = 62;
        assert!(refused(&elf, None).1.contains("is a kernel for x86_64"));
        assert!(refused(&kernel(b"RSC\x05"), None).1.contains("riscv64"));
        assert!(refused(b"#!/bin/sh", None).1.contains("neither Image"));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel(b"RSC\x05")).unwrap();
        let (about, reason) = refused(&gzip.finish().unwrap(), None);
        assert_eq!(about, About::Kernel);
        assert!(reason.contains("no kernel for this host"), "{reason}");
    }

    #[test]
    fn memory_that_ends_before_the_tree_is_named() {
        let error = loaded(&memory(1), &kernel(b"ARM\x64"), None).unwrap_err();
        assert_eq!(error.about(), About::Mem);
    }
}
