// SPDX-License-Identifier: Apache-2.0
//! The layout of the guest's physical address space: what is on every machine with a device tree
//! ([`platform`](super::super::platform)), the GIC and the GPIO controller.
//!
//! Everything that KVM maps for the guest is aligned to 64 KiB, the largest page of a host.

use crate::arch::platform;
pub(super) use crate::arch::platform::{ECAM, PVPANIC, RAM, UART, region};
pub use crate::arch::platform::{pci_windows, ram_regions};
use crate::memory::Region;

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

/// The clock.
pub(super) const RTC: Region = region(platform::RTC, devices::arm::pl031::LEN_BYTES);
/// The GPIO controller of the power button.
pub(super) const GPIO: Region = region(0x1002_0000, devices::arm::pl061::LEN_BYTES);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_overlap_and_are_on_pages_of_64_kib() {
        let redistributors = region(REDISTRIBUTORS, 254 * REDISTRIBUTOR_BYTES);
        let ecam = region(ECAM, devices::pci::root::ECAM_LEN_BYTES);
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
            platform::BARS_32,
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
