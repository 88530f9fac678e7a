// SPDX-License-Identifier: Apache-2.0
//! Kernel images and initrds: any file is refused, or the guest is ready to start, inside its memory.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use ipc::memfd::{Backing, shared};
use ipc::record::Pages;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vmm::arch::{Description, load, pci_windows, ram_regions};
use vmm::boot::Images;
use vmm::machine::MachineDesc;
use vmm::memory::{self, Mapping};

const RAM_LEN: u64 = 16 << 20;

pub(crate) fn run(data: &[u8]) {
    let mut data = data;
    let initrd = match data.split_first() {
        Some((&len, rest)) if len < 16 => {
            let (initrd, kernel) = rest.split_at(usize::from(len).min(rest.len()));
            data = kernel;
            Some(file(initrd))
        }
        Some((_, rest)) => {
            data = rest;
            None
        }
        None => None,
    };
    let ram = shared("ram", RAM_LEN, Backing::Shmem).unwrap();
    let how = Mapping {
        pages: Pages::Base,
        prefault: false,
    };
    let memory = memory::map(ram, &ram_regions(RAM_LEN), how).unwrap();
    let images = Images {
        kernel: file(data),
        initrd,
        cmdline: "quiet",
    };
    let machine = MachineDesc {
        cpus: 2,
        pci: pci_windows(RAM_LEN),
        slots: Vec::new(),
        board_button: true,
    };
    match load(&memory, images, &machine, &Description) {
        Ok(entry) => assert!(entry.address < RAM_LEN, "{entry:x?}"),
        Err(error) => drop((error.about(), error.to_string())),
    }
}

fn file(content: &[u8]) -> OwnedFd {
    let mut file = File::from(memfd_create(c"image", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all(content).unwrap();
    file.into()
}
