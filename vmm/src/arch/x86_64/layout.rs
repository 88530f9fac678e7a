// SPDX-License-Identifier: Apache-2.0
//! The layout of the guest's physical address space.
//!
//! ```text
//! 0                 boot structures below 640 KiB, ACPI tables from 0xe0000, generation id at 0xf0000,
//!                   reset vector at 0xffff0
//! 1 MiB             RAM: the kernel, the initrd at its end
//! 3 GiB             the PCI hole: BARs of 32 bits
//!   0xeb00_0000       ECAM
//!   0xfec0_0000       IOAPIC
//!   0xfee0_0000       local APICs (in the kernel)
//!   0xfffb_c000       KVM's own four pages
//! 4 GiB             the rest of RAM
//! above RAM         BARs of 64 bits
//! ```

use devices::legacy::AcpiPm;

use crate::machine::PciWindows;
use crate::memory::Region;

/// The GDT at the kernel's entry.
pub(super) const GDT: u64 = 0x500;
/// PVH start info, module list and memory map.
pub(super) const PVH: u64 = 0x6000;
/// The boot parameters of the Linux boot protocol ("zero page").
pub(super) const ZERO_PAGE: u64 = 0x7000;
/// The kernel command line.
pub(super) const CMDLINE: u64 = 0x2_0000;
/// The end of the RAM below 1 MiB on a PC.
pub(super) const LOW_RAM_END: u64 = 0x9_fc00;
/// The ACPI tables, the RSDP first: a kernel without a pointer to the RSDP searches here.
pub(super) const ACPI: u64 = 0xe_0000;
/// The end of the ACPI tables.
pub(super) const ACPI_END: u64 = 0xf_0000;
/// The generation id of the VM: 16 bytes on a page of their own.
pub(super) const GENERATION_ID: u64 = ACPI_END;
/// Where a PC's processor starts after a reset, F000:FFF0.
pub(super) const RESET_VECTOR: u64 = 0xf_fff0;
/// Where kernels are loaded.
pub(super) const HIGH_RAM: u64 = 0x10_0000;
/// The end of the RAM below 4 GiB, and the start of the PCI hole.
pub(super) const HOLE: u64 = 3 << 30;
/// The window of 32-bit BARs.
pub(super) const BARS_32: Region = Region {
    base: HOLE,
    len_bytes: 0x2b00_0000,
};
/// The last bus of the host bridge. Devices are added to bus 0, and Linux looks for others on every bus there may
/// be, by 32 reads of configuration space for each.
pub(super) const LAST_BUS: u8 = 7;
/// The ECAM window.
pub(super) const ECAM: u64 = 0xeb00_0000;
/// The IOAPIC.
pub(super) const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs.
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;
/// KVM's identity map, one page.
pub(super) const IDENTITY_MAP: u64 = 0xfffb_c000;
/// KVM's task state segment, three pages.
pub(super) const TSS: u64 = IDENTITY_MAP + 0x1000;
/// The end of the PCI hole.
pub(super) const HOLE_END: u64 = 4 << 30;
/// The length of the window of 64-bit BARs above RAM.
pub(super) const BARS_64_LEN: u64 = 64 << 30;

/// COM1's first port and its IOAPIC pin.
pub(super) const COM1: (u16, usize) = (0x3f8, 4);
/// The keyboard controller's first port.
pub(super) const I8042: u16 = 0x60;
/// pvpanic's port.
pub(super) const PVPANIC: u16 = 0x505;
/// The first of ACPI's sleep and reset registers.
pub(super) const ACPI_PM: u16 = 0x600;
/// The last of them, the reset register.
pub(super) const ACPI_RESET: u16 = ACPI_PM + 2;
const _: () = assert!(ACPI_RESET as u64 == ACPI_PM as u64 + AcpiPm::RESET);
/// The IOAPIC pin of the power button, an event of the generic event device.
pub(super) const BUTTON_PIN: usize = 9;
/// The IOAPIC pin by which the generic event device says that the generation id has changed.
pub(super) const GENERATION_PIN: usize = 10;

/// The IOAPIC pins that the interrupt lines of PCI devices share.
pub(super) const PCI_PINS: std::ops::Range<usize> = 16..24;

/// The IOAPIC pin of the interrupt line of the PCI device in a slot.
pub(super) fn pci_pin(slot: u8) -> usize {
    PCI_PINS.start + usize::from(slot) % PCI_PINS.len()
}

/// The regions of RAM of `len_bytes`.
pub fn ram_regions(len_bytes: u64) -> Vec<Region> {
    let low = Region {
        base: 0,
        len_bytes: len_bytes.min(HOLE),
    };
    if len_bytes <= HOLE {
        return vec![low];
    }
    vec![
        low,
        Region {
            base: HOLE_END,
            len_bytes: len_bytes - HOLE,
        },
    ]
}

/// The windows of the PCI bus, for a RAM that ends at `ram_end`.
pub fn pci_windows(ram_end: u64) -> PciWindows {
    PciWindows {
        bars_32: BARS_32,
        bars_64: Region {
            base: ram_end.max(HOLE_END).next_multiple_of(1 << 30),
            len_bytes: BARS_64_LEN,
        },
    }
}

#[cfg(test)]
mod tests {
    use devices::pci::root::ECAM_LEN_BYTES;

    use super::*;

    #[test]
    fn ram_larger_than_the_hole_continues_at_4_gib() {
        assert_eq!(
            ram_regions(1 << 30),
            [Region {
                base: 0,
                len_bytes: 1 << 30
            }]
        );
        assert_eq!(
            ram_regions(HOLE),
            [Region {
                base: 0,
                len_bytes: HOLE
            }]
        );
        let split = ram_regions(9 << 29);
        assert_eq!(
            split[1],
            Region {
                base: 4 << 30,
                len_bytes: (9 << 29) - HOLE
            }
        );
        assert_eq!(pci_windows((11 << 29) + 1).bars_64.base, 6 << 30);
    }

    #[test]
    fn hole_holds_its_parts_in_order() {
        let order = [
            HOLE,
            BARS_32.base + BARS_32.len_bytes,
            ECAM + ECAM_LEN_BYTES,
            IOAPIC,
            IDENTITY_MAP,
            HOLE_END,
        ];
        assert!(order.is_sorted());
    }
}
