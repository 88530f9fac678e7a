// SPDX-License-Identifier: Apache-2.0
//! PVH boot structures (xen.git xen/include/public/arch-x86/hvm/start_info.h): the start info, the
//! initrd as its only module, and the memory map, one after the other from [`layout::PVH`].

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::{Initrd, memory_map};
use crate::arch::x86_64::layout;
use crate::memory::GuestMemory;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;
const MODULES: u64 = layout::PVH + 0x40;
const MEMORY_MAP: u64 = layout::PVH + 0x80;

/// Writes the boot structures.
pub(super) fn write(memory: &GuestMemory, initrd: Option<Initrd>) -> Result<(), GuestMemoryError> {
    let map = memory_map(memory);
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: layout::ACPI,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or(0),
        ..Default::default()
    };
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.base,
            size: initrd.len,
            ..Default::default()
        };
        memory.write_obj(module, GuestAddress(MODULES))?;
        (info.modlist_paddr, info.nr_modules) = (MODULES, 1);
    }
    memory.write_obj(info, GuestAddress(layout::PVH))?;
    let step = size_of::<hvm_memmap_table_entry>();
    for (at, (addr, size, kind)) in (MEMORY_MAP..).step_by(step).zip(map) {
        let entry = hvm_memmap_table_entry {
            addr,
            size,
            type_: kind as u32,
            reserved: 0,
        };
        memory.write_obj(entry, GuestAddress(at))?;
    }
    Ok(())
}
