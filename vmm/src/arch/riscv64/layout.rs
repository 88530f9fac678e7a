// SPDX-License-Identifier: Apache-2.0
//! The layout of the guest's physical address space.
//!
//! ```text
//! 0x0800_0000       IMSICs, one page for each hart, or the PLIC
//! 0x0d00_0000       APLIC
//! 0x1000_0000       serial port, clock, pvpanic: 64 KiB each
//! 0x3000_0000       ECAM, one bus
//! 0x4000_0000       BARs of 32 bits
//! 0x8000_0000       RAM: the kernel, the device tree, the initrd at its end
//! above RAM         BARs of 64 bits
//! ```

use crate::machine::PciWindows;
use crate::memory::Region;

const fn region(base: u64, len_bytes: u64) -> Region {
    Region { base, len_bytes }
}

/// The IMSIC of the first hart; those of the others follow it.
pub(super) const IMSICS: u64 = 0x0800_0000;
/// The length of an IMSIC.
pub(super) const IMSIC_BYTES: u64 = 0x1000;
/// The PLIC, on a machine without IMSICs and APLIC.
pub(super) const PLIC: Region = region(0x0800_0000, devices::riscv::plic::LEN_BYTES);
/// The APLIC.
pub(super) const APLIC: Region = region(0x0d00_0000, 0x4000);

/// The serial port.
pub(super) const UART: Region = region(0x1000_0000, devices::serial::PORTS);
/// The clock.
pub(super) const RTC: Region = region(0x1001_0000, devices::riscv::goldfish_rtc::LEN_BYTES);
/// pvpanic.
pub(super) const PVPANIC: Region = region(0x1003_0000, 2);
/// Configuration space of the PCI bus.
pub(super) const ECAM: u64 = 0x3000_0000;
/// The window of 32-bit BARs.
const BARS_32: Region = region(0x4000_0000, 0x4000_0000);
/// Where RAM begins.
pub(super) const RAM: u64 = 0x8000_0000;
/// The length of the window of 64-bit BARs above RAM.
const BARS_64_LEN: u64 = 1 << 30;

/// The sources of the wired devices at the interrupt controller; there is no source 0.
pub(super) mod source {
    pub(in super::super) const UART: u32 = 1;
    pub(in super::super) const RTC: u32 = 2;
    /// That of the PCI device in a slot.
    pub(in super::super) fn pci(slot: u8) -> u32 {
        RTC + u32::from(slot)
    }
    /// The highest one.
    pub(in super::super) const LAST: u32 = 63;
}

/// The regions of RAM of `len_bytes`.
pub fn ram_regions(len_bytes: u64) -> Vec<Region> {
    vec![region(RAM, len_bytes)]
}

/// The windows of the PCI bus, for a RAM that ends at `ram_end`.
pub fn pci_windows(ram_end: u64) -> PciWindows {
    PciWindows {
        bars_32: BARS_32,
        bars_64: region(ram_end.next_multiple_of(1 << 30), BARS_64_LEN),
    }
}
