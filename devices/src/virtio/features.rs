// SPDX-License-Identifier: Apache-2.0
//! Feature bits (virtio 1.2 §6), and which of a device's may be offered through this transport.

/// Descriptors may point to tables of descriptors.
pub const RING_INDIRECT_DESC: u64 = 1 << 28;
/// Notifications are suppressed by index.
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// Means "protocol features follow" to a vhost-user peer; never shown to a driver.
pub const VHOST_USER_PROTOCOL: u64 = 1 << 30;
/// Virtio 1.0 or later; without it a device is a legacy one.
pub const VERSION_1: u64 = 1 << 32;

/// The bits whose meaning depends on the type of device.
const DEVICE_SPECIFIC: u64 = 0x00ff_ffff | !((1 << 50) - 1);
/// What this transport, and restarting the device's process, can bear of the others. Not among
/// them: the packed ring (its position cannot be told from memory alone), an IOMMU, data in
/// notifications (a doorbell keeps none), and reset of single queues.
const COMMON: u64 = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1;

/// What remains of a device's features.
pub fn offerable(features: u64) -> u64 {
    features & (DEVICE_SPECIFIC | COMMON)
}

/// Whether a driver may go on with the features it wrote.
pub fn acceptable(offered: u64, written: u64) -> bool {
    // "The driver MUST NOT accept a feature which the device did not offer" (§2.2.1), and the device
    // "MAY fail to operate further if VIRTIO_F_VERSION_1 is not accepted" (§6.2).
    written & !offered == 0 && written & VERSION_1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_the_transport_cannot_bear_are_not_offered() {
        for bit in [24, 26, 27, 30, 31, 33, 34, 35, 36, 37, 38, 39, 40, 41, 49] {
            assert_eq!(offerable(1 << bit), 0, "bit {bit}");
        }
        for bit in [0, 9, 23, 28, 29, 32, 50, 63] {
            assert_eq!(offerable(1 << bit), 1 << bit, "bit {bit}");
        }
    }

    #[test]
    fn subset_with_version_1_is_acceptable_and_nothing_else() {
        let offered = VERSION_1 | RING_EVENT_IDX | 3;
        assert!(acceptable(offered, VERSION_1));
        assert!(acceptable(offered, offered));
        assert!(!acceptable(offered, VERSION_1 | 4));
        assert!(!acceptable(offered, RING_EVENT_IDX));
    }
}
