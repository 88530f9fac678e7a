// SPDX-License-Identifier: Apache-2.0
//! bzImage and the Linux boot protocol (Documentation/arch/x86/boot.rst).

use std::fs::File;
use std::os::unix::fs::FileExt;

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryError};

use super::{BootError, HIGH_RAM, Initrd, Kernel, check_room, memory_map};
use crate::arch::x86_64::layout;
use crate::memory::GuestMemory;

/// The boot protocol version that introduced `init_size` and `pref_address`; Linux 2.6.31.
const VERSION_MIN: u16 = 0x020a;
/// The loader type of a boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// Where the setup header is in the file.
const HEADER_AT: u64 = 0x1f1;
/// `loadflags`: the protected-mode part is loaded at 1 MiB.
const LOADED_HIGH: u8 = 1;
/// The unit of `syssize`.
const PARAGRAPH_BYTES: u64 = 16;

/// Loads the protected-mode part; the kernel is entered at its first byte.
pub(super) fn load(memory: &GuestMemory, image: &mut File) -> Result<Kernel, BootError> {
    let file_len = image.metadata().map_err(super::FormatError::Read)?.len();
    check_header(image, file_len)?;
    check_room(memory, HIGH_RAM.saturating_add(file_len))?;
    let loaded = BzImage::load(memory, None, image, Some(GuestAddress(HIGH_RAM)));
    let loaded = loaded.map_err(BootError::Load)?;
    let Some(setup) = loaded.setup_header else {
        return Err(BootError::Unusable("has no setup header"));
    };
    // The kernel decompresses itself to the preferred address, or in place if it is loaded higher.
    let entry = loaded.kernel_load.raw_value();
    let base = setup.pref_address.max(entry);
    let end = base
        .saturating_add(u64::from(setup.init_size))
        .max(loaded.kernel_end);
    check_room(memory, end)?;
    let initrd_max = u64::from(setup.initrd_addr_max);
    Ok(Kernel {
        entry,
        end,
        initrd_max,
        setup: Some(setup),
    })
}

/// Rejects, before loading, a kernel that cannot be entered in 32-bit mode at 1 MiB.
fn check_header(image: &File, file_len: u64) -> Result<(), BootError> {
    let mut header = setup_header::default();
    let header_end = HEADER_AT + size_of::<setup_header>() as u64;
    let read = image.read_exact_at(header.as_mut_slice(), HEADER_AT);
    read.map_err(|_| BootError::Truncated {
        found: file_len,
        expected: header_end,
    })?;
    if header.version < VERSION_MIN {
        return Err(BootError::Protocol {
            major: header.version >> 8,
            minor: header.version & 0xff,
        });
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return Err(BootError::Unusable(
            "is a zImage, which runs below 1 MiB: build a bzImage",
        ));
    }
    if u64::from(header.code32_start) < HIGH_RAM {
        return Err(BootError::Unusable(
            "has no 32-bit entry point (code32_start is below 1 MiB): it starts in 16-bit real \
             mode, for which there is no firmware here",
        ));
    }
    let setup_sectors = match header.setup_sects {
        0 => 4,
        sectors => u64::from(sectors),
    };
    // The last paragraph may be incomplete in the file.
    let paragraphs = u64::from(header.syssize).saturating_sub(1);
    let protected_at = (setup_sectors + 1) * 512;
    let shortest = protected_at + paragraphs * PARAGRAPH_BYTES + 1;
    if file_len < shortest {
        return Err(BootError::Truncated {
            found: file_len,
            expected: protected_at + u64::from(header.syssize) * PARAGRAPH_BYTES,
        });
    }
    Ok(())
}

/// Writes the boot parameters ("zero page").
pub(super) fn write(
    memory: &GuestMemory,
    setup: setup_header,
    initrd: Option<Initrd>,
) -> Result<(), GuestMemoryError> {
    let low = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let mut params = boot_params {
        hdr: setup,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = low(layout::CMDLINE);
    params.acpi_rsdp_addr = layout::ACPI;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = low(initrd.base);
        params.hdr.ramdisk_size = low(initrd.len);
    }
    for (entry, (addr, size, kind)) in params.e820_table.iter_mut().zip(memory_map(memory)) {
        *entry = boot_e820_entry {
            addr,
            size,
            r#type: kind as u32,
        };
        params.e820_entries += 1;
    }
    memory.write_obj(params, GuestAddress(layout::ZERO_PAGE))
}
