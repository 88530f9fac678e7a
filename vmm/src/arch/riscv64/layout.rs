// SPDX-License-Identifier: Apache-2.0
//! The layout of the guest's physical address space: what is on every machine with a device tree
//! ([`platform`](super::super::platform)), and the interrupt controllers.

use crate::arch::platform;
pub(super) use crate::arch::platform::{ECAM, PVPANIC, RAM, UART, region};
pub use crate::arch::platform::{pci_windows, ram_regions};
use crate::memory::Region;

/// The IMSIC of the first hart; those of the others follow it.
pub(super) const IMSICS: u64 = 0x0800_0000;
/// The length of an IMSIC.
pub(super) const IMSIC_BYTES: u64 = 0x1000;
/// The PLIC, on a machine without IMSICs and APLIC.
pub(super) const PLIC: Region = region(0x0800_0000, devices::riscv::plic::LEN_BYTES);
/// The APLIC.
pub(super) const APLIC: Region = region(0x0d00_0000, 0x4000);

/// The clock.
pub(super) const RTC: Region = region(platform::RTC, devices::riscv::goldfish_rtc::LEN_BYTES);
/// The sources of the wired devices at the interrupt controller; there is no source 0.
pub(super) mod source {
    use ipc::slot::DeviceSlot;

    pub(in super::super) const UART: u32 = 1;
    pub(in super::super) const RTC: u32 = 2;
    const POWER_BUTTON: u32 = 3;
    /// That of the PCI device in a slot. That of the power button, whose slot is the last, comes first:
    /// a kernel sets up every source of a PLIC below the highest.
    pub(in super::super) fn pci(slot: u8) -> u32 {
        if slot == DeviceSlot::POWER_BUTTON.number() {
            return POWER_BUTTON;
        }
        POWER_BUTTON + u32::from(slot)
    }
    /// The highest one.
    pub(in super::super) const LAST: u32 = 63;
}
