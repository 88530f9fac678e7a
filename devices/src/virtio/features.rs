// SPDX-License-Identifier: Apache-2.0
//! Feature bits (virtio 1.2 §6), and which of a device's features this transport can offer.

/// Indirect descriptors.
pub const RING_INDIRECT_DESC: u64 = 1 << 28;
/// Notification suppression by index.
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// For a vhost-user backend: "protocol features follow". Never offered to a driver.
pub const VHOST_USER_PROTOCOL: u64 = 1 << 30;
/// Virtio 1.0 or later; a device without it is a legacy device.
pub const VERSION_1: u64 = 1 << 32;

/// The bits whose meaning depends on the device type.
const DEVICE_SPECIFIC: u64 = 0x00ff_ffff | !((1 << 50) - 1);
/// The other features that this transport and a restart of the backend support. Not the packed ring
/// (its position is not in guest memory), an IOMMU, notification data (an ioeventfd does not keep
/// it), or reset of single queues.
const COMMON: u64 = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1;

/// The features of a device that the transport can offer.
pub fn offerable(features: u64) -> u64 {
    features & (DEVICE_SPECIFIC | COMMON)
}

/// Whether to accept the features that a driver wrote.
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
