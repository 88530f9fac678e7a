// SPDX-License-Identifier: Apache-2.0
//! The machine as the tables for its guest describe it: what every architecture has, whatever the
//! tables' format. An architecture adds the addresses of its own devices.

use ipc::slot::DeviceSlot;

use crate::memory::Region;

/// The addresses that BARs of PCI devices may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciWindows {
    /// BARs of 32 bits.
    pub bars_32: Region,
    /// BARs of 64 bits.
    pub bars_64: Region,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineDesc {
    /// The number of vCPUs.
    pub cpus: u8,
    /// The windows of the PCI bus.
    pub pci: PciWindows,
    /// The slots of the virtio devices on the PCI bus.
    pub slots: Vec<DeviceSlot>,
    /// Whether the board has a power button, where the architecture knows one.
    pub board_button: bool,
}
