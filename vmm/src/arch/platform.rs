// SPDX-License-Identifier: Apache-2.0
//! The addresses that machines described by a device tree have in common.
//!
//! ```text
//! 0x0800_0000       interrupt controllers: the architecture's
//! 0x1000_0000       serial port, clock, …: 64 KiB each
//! 0x3000_0000       ECAM
//! 0x4000_0000       BARs of 32 bits
//! 0x8000_0000       RAM: the kernel, the device tree, the initrd at its end
//! above RAM         BARs of 64 bits
//! ```

use crate::machine::PciWindows;
use crate::memory::Region;

/// A region.
pub(super) const fn region(base: u64, len_bytes: u64) -> Region {
    Region { base, len_bytes }
}

/// The serial port.
pub(super) const UART: Region = region(0x1000_0000, devices::serial::PORTS);
/// Where the clock is.
pub(super) const RTC: u64 = 0x1001_0000;
/// pvpanic.
pub(super) const PVPANIC: Region = region(0x1003_0000, 2);
/// Configuration space of the PCI bus.
pub(super) const ECAM: u64 = 0x3000_0000;
/// The window of 32-bit BARs.
pub(super) const BARS_32: Region = region(0x4000_0000, 0x4000_0000);
/// Where RAM begins.
pub(super) const RAM: u64 = 0x8000_0000;
/// The length of the window of 64-bit BARs above RAM.
const BARS_64_LEN: u64 = 1 << 30;

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
    fn windows_are_below_and_above_ram() {
        let windows = pci_windows(ram_regions(3 << 29)[0].base + (3 << 29));
        assert_eq!(windows.bars_32.base + windows.bars_32.len_bytes, RAM);
        assert_eq!(windows.bars_64, region(RAM + (2 << 30), 1 << 30));
        let order = [UART.base, RTC, PVPANIC.base, ECAM, BARS_32.base, RAM];
        assert!(order.is_sorted());
    }
}
