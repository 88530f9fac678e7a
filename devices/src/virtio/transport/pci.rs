// SPDX-License-Identifier: Apache-2.0
//! Virtio over PCI (virtio 1.2 §4.1), without the legacy interface: interrupts are MSI-X, every
//! queue has its own doorbell, and all registers are in one BAR.
//!
//! Runs on vCPU threads; [`crate::virtio::device::DriverSignals`] on the device's thread. Lock
//! order: configuration space, common configuration, doorbells, interrupts.

mod capabilities;
mod common_config;
mod doorbells;
pub mod function;
pub mod intx;
mod msix;
mod queue_config;
mod registers;
#[cfg(test)]
mod testing;

/// The most queues of a device: vhost-user encodes a queue's index in 8 bits.
pub const QUEUES_MAX: usize = 256;

/// The number of MSI-X vectors of a device: one for each queue, one for its configuration.
pub fn vector_count(queues: usize) -> usize {
    queues + 1
}

/// The layout of the BAR.
mod layout {
    /// The length of the BAR in bytes.
    pub(super) const BAR_LEN_BYTES: u64 = 0x1_0000;

    pub(super) const COMMON: u64 = 0;
    pub(super) const ISR: u64 = 0x1000;
    pub(super) const DEVICE_CONFIG: u64 = 0x2000;
    pub(super) const DEVICE_CONFIG_MAX: u64 = 0x1000;
    pub(super) const NOTIFY: u64 = 0x3000;
    pub(super) const NOTIFY_MULTIPLIER: u32 = 4;
    pub(super) const MSIX_TABLE: u64 = 0x8000;
    pub(super) const MSIX_PBA: u64 = 0xc000;

    const _: () = assert!(doorbell(super::QUEUES_MAX) <= MSIX_TABLE);
    const _: () = assert!(MSIX_TABLE + 16 * (super::QUEUES_MAX as u64 + 1) <= MSIX_PBA);

    /// The doorbell of queue `index`.
    pub(super) const fn doorbell(index: usize) -> u64 {
        NOTIFY + NOTIFY_MULTIPLIER as u64 * index as u64
    }
}
