// SPDX-License-Identifier: Apache-2.0
//! The layout of the guest's physical address space.
//!
//! ```text
//! 0x0800_0000       GIC: distributor, CPU interface (GICv2), MSI frame, ITS, redistributors
//! 0x1000_0000       serial port, clock, GPIO, pvpanic: 64 KiB each
//! 0x3000_0000       ECAM, one bus
//! 0x4000_0000       BARs of 32 bits
//! 0x8000_0000       RAM: the kernel, the device tree, the initrd at its end
//! above RAM         BARs of 64 bits
//! ```
//!
//! Everything that KVM maps for the guest is aligned to 64 KiB, the largest page of a host.

use crate::machine::PciWindows;
use crate::memory::Region;

const fn region(base: u64, len_bytes: u64) -> Region {
    Region { base, len_bytes }
}

/// The GIC's distributor. A GICv2 uses its first 4 KiB.
pub(super) const GICD: Region = region(0x0800_0000, 0x1_0000);
/// The CPU interface of a GICv2.
pub(super) const GICC: Region = region(0x0801_0000, 0x2000);
/// The MSI frame of a GICv2.
pub(super) const V2M: Region = region(0x0802_0000, 0x1000);
/// The ITS of a GICv3.
pub(super) const ITS: Region = region(0x0804_0000, 0x2_0000);
/// The first redistributor of a GICv3; those of the other vCPUs follow it.
pub(super) const REDISTRIBUTORS: u64 = 0x080a_0000;
/// The length of a redistributor.
pub(super) const REDISTRIBUTOR_BYTES: u64 = 0x2_0000;

/// The serial port.
pub(super) const UART: Region = region(0x1000_0000, devices::serial::PORTS);
/// The clock.
pub(super) const RTC: Region = region(0x1001_0000, devices::arm::pl031::LEN_BYTES);
/// The GPIO controller of the power button.
pub(super) const GPIO: Region = region(0x1002_0000, devices::arm::pl061::LEN_BYTES);
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

/// The shared interrupts of wired devices. Their interrupt ids begin at 32.
pub(super) mod spi {
    pub(in super::super) const UART: u16 = 0;
    pub(in super::super) const RTC: u16 = 1;
    pub(in super::super) const GPIO: u16 = 2;

    /// That of the PCI device in a slot; up to 34.
    pub(in super::super) fn pci(slot: u8) -> u16 {
        GPIO + u16::from(slot)
    }
}
/// The interrupt id of the first shared interrupt.
pub(super) const FIRST_SPI_ID: u16 = 32;
/// The interrupt ids that a GICv2 has: the first 32 belong to the vCPUs.
pub(super) const IDS: u16 = 256;
/// The interrupt ids that stand for messages on a GICv2: first and count.
pub(super) const V2M_IDS: (u16, u16) = (96, IDS - 96);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_overlap_and_are_on_pages_of_64_kib() {
        let redistributors = region(REDISTRIBUTORS, 254 * REDISTRIBUTOR_BYTES);
        let ecam = region(ECAM, 1 << 20);
        let order = [
            GICD,
            GICC,
            V2M,
            ITS,
            redistributors,
            UART,
            RTC,
            GPIO,
            PVPANIC,
            ecam,
            BARS_32,
            region(RAM, 1),
        ];
        for pair in order.windows(2) {
            assert!(
                pair[0].base + pair[0].len_bytes <= pair[1].base,
                "{pair:x?}"
            );
        }
        assert!(order.iter().all(|region| region.base % 0x1_0000 == 0));
    }
}
