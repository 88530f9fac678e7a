// SPDX-License-Identifier: Apache-2.0
//! What the device offers: feature bits and configuration space (virtio 1.2, §5.1.3 and §5.1.4),
//! and the role of each queue.
//!
//! The frontend reads it once per connection; it does not change while the process runs.

use host::tap::offload;
use ipc::fd::net::PAIRS_MAX;
use ipc::record::Guard;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_RX_EXTRA, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use ipc::mac::MacAddress;

/// The length of `struct virtio_net_config` up to and including `mtu`.
const CONFIG_BYTES: usize = 12;
/// The smallest MTU that IPv4 allows, to the MTU of the longest frames.
const MTU: std::ops::RangeInclusive<u16> = 68..=65521;

/// The driver's offload features, and the tap's flag for each.
const OFFLOADS: [(u32, u32); 7] = [
    (VIRTIO_NET_F_GUEST_CSUM, offload::CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, offload::TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, offload::TSO6),
    (VIRTIO_NET_F_GUEST_ECN, offload::ECN),
    (VIRTIO_NET_F_GUEST_UFO, offload::UFO),
    (VIRTIO_NET_F_GUEST_USO4, offload::USO4),
    (VIRTIO_NET_F_GUEST_USO6, offload::USO6),
];

/// The NIC's settings are not valid.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// The number of pairs of queues.
    #[error("queues={0}: must be 1 to {PAIRS_MAX}")]
    Pairs(u16),
    /// Their size.
    #[error("queue-size={0}: must be a power of two from 64 to 1024")]
    QueueSize(u16),
    /// The MTU.
    #[error("mtu={0}: must be 68 to 65521")]
    Mtu(u16),
    /// The MAC address.
    #[error("mac={0}: must not be zero or a group address")]
    Mac(MacAddress),
    /// A check needs the MAC address.
    #[error("a filter by MAC address needs mac=")]
    NoMac,
}

/// A NIC as the guest is to see it.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Its MAC address; if there is none, the frontend or the driver must supply it.
    pub mac: Option<MacAddress>,
    /// The largest packet that the driver may send, if the driver is to be told.
    pub mtu: Option<u16>,
    /// The pairs of queues.
    pub pairs: u16,
    /// The most entries of a queue.
    pub queue_size: u16,
    /// Whether the tap can do UDP segmentation.
    pub uso: bool,
    /// What the guest may not send.
    pub guard: Guard,
}

/// The role of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// From the tap to the guest.
    Receive,
    /// From the guest to the tap.
    Transmit,
    /// Commands of the driver.
    Control,
    /// Unused with the acknowledged features.
    None,
}

impl Nic {
    /// Checks that the NIC can be served.
    pub fn check(&self) -> Result<(), NicError> {
        if self.pairs == 0 || self.pairs > PAIRS_MAX {
            return Err(NicError::Pairs(self.pairs));
        }
        if !self.queue_size.is_power_of_two() || !(64..=1024).contains(&self.queue_size) {
            return Err(NicError::QueueSize(self.queue_size));
        }
        match (self.mac, self.mtu) {
            (Some(mac), _) if !mac.is_host() => Err(NicError::Mac(mac)),
            (None, _) if self.guard.mac => Err(NicError::NoMac),
            (_, Some(mtu)) if !MTU.contains(&mtu) => Err(NicError::Mtu(mtu)),
            _ => Ok(()),
        }
    }

    /// The number of queues: the pairs and the control queue.
    pub fn queues(&self) -> u16 {
        2 * self.pairs + 1
    }

    /// The role of a queue. The control queue follows the pairs that the driver knows of (§5.1.2).
    pub fn role(&self, queue: u16, acked: u64) -> Role {
        let known = if has(acked, VIRTIO_NET_F_MQ) {
            self.pairs
        } else {
            1
        };
        match queue {
            _ if queue == 2 * known && has(acked, VIRTIO_NET_F_CTRL_VQ) => Role::Control,
            _ if queue >= 2 * known => Role::None,
            _ if queue.is_multiple_of(2) => Role::Receive,
            _ => Role::Transmit,
        }
    }

    /// The feature bits.
    pub fn features(&self) -> u64 {
        let mut bits = vec![
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_GUEST_UFO,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_HOST_UFO,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_STATUS,
            VIRTIO_NET_F_CTRL_VQ,
            VIRTIO_NET_F_CTRL_RX,
            VIRTIO_NET_F_CTRL_RX_EXTRA,
            VIRTIO_NET_F_CTRL_VLAN,
            VIRTIO_NET_F_CTRL_MAC_ADDR,
        ];
        if self.uso {
            bits.extend([
                VIRTIO_NET_F_HOST_USO,
                VIRTIO_NET_F_GUEST_USO4,
                VIRTIO_NET_F_GUEST_USO6,
            ]);
        }
        bits.extend(self.mac.map(|_| VIRTIO_NET_F_MAC));
        bits.extend(self.mtu.map(|_| VIRTIO_NET_F_MTU));
        if self.pairs > 1 {
            bits.push(VIRTIO_NET_F_MQ);
        }
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        bits.iter().fold(protocol, |all, bit| all | 1 << bit)
    }

    /// The vhost-user protocol features. Without CONFIGURE_MEM_SLOTS: QEMU before 8.2 adds every
    /// memory region once for each pair of queues.
    pub fn protocol_features() -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    /// The configuration space: `struct virtio_net_config`, little-endian.
    pub fn config(&self, link_up: bool) -> [u8; CONFIG_BYTES] {
        let status = u16::from(link_up) * u16::try_from(VIRTIO_NET_S_LINK_UP).unwrap_or(1);
        let mut space = [0; CONFIG_BYTES];
        space[..6].copy_from_slice(&self.mac.unwrap_or_default().0);
        space[6..8].copy_from_slice(&status.to_le_bytes());
        space[8..10].copy_from_slice(&self.pairs.to_le_bytes());
        space[10..].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        space
    }
}

/// Whether a set of features has this one.
pub fn has(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}

/// The tap's offload flags for feature bits: the acknowledged ones, or those of a command of the
/// driver.
pub fn tap_offload(features: u64) -> u32 {
    let offload = OFFLOADS
        .iter()
        .filter(|(bit, _)| has(features, *bit))
        .fold(0, |all, (_, offload)| all | offload);
    // The tap accepts the others only together with this one.
    if offload & offload::CSUM == 0 {
        return 0;
    }
    offload
}

/// All feature bits that the driver may switch with a command (§5.1.6.5.6.1).
pub fn switchable() -> u64 {
    OFFLOADS.iter().fold(0, |all, (bit, _)| all | 1 << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(pairs: u16) -> Nic {
        Nic {
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            mtu: Some(9000),
            pairs,
            queue_size: 256,
            uso: false,
            guard: Guard::default(),
        }
    }

    const MQ: u64 = 1 << VIRTIO_NET_F_MQ;
    const CTRL: u64 = 1 << VIRTIO_NET_F_CTRL_VQ;

    #[test]
    fn control_queue_is_behind_the_pairs_that_the_driver_knows_of() {
        let nic = nic(4);
        assert_eq!(nic.role(2, CTRL), Role::Control);
        assert_eq!(nic.role(8, CTRL), Role::None);
        assert_eq!(nic.role(2, CTRL | MQ), Role::Receive);
        assert_eq!(nic.role(7, CTRL | MQ), Role::Transmit);
        assert_eq!(nic.role(8, CTRL | MQ), Role::Control);
        assert_eq!(nic.role(2, 0), Role::None);
    }

    #[test]
    fn features_follow_what_the_card_is() {
        assert!(!has(nic(1).features(), VIRTIO_NET_F_MQ));
        assert!(has(nic(2).features(), VIRTIO_NET_F_MQ));
        assert!(!has(nic(2).features(), VIRTIO_NET_F_HOST_USO));
        let anonymous = Nic {
            mac: None,
            mtu: None,
            ..nic(1)
        };
        assert!(!has(anonymous.features(), VIRTIO_NET_F_MAC));
        assert!(!has(anonymous.features(), VIRTIO_NET_F_MTU));
    }

    #[test]
    fn config_space_has_the_fields_where_the_specification_has_them() {
        let space = nic(4).config(true);
        assert_eq!(space, [2, 0, 0, 0, 0, 1, 1, 0, 4, 0, 0x28, 0x23]);
        assert_eq!(nic(4).config(false)[6], 0);
    }

    #[test]
    fn card_that_cannot_be_is_refused() {
        let good = nic(8);
        assert!(good.check().is_ok());
        let bad = [
            nic(0),
            nic(9),
            Nic {
                queue_size: 32,
                ..nic(1)
            },
            Nic {
                mtu: Some(67),
                ..nic(1)
            },
            Nic {
                mac: Some(MacAddress([1, 0, 0, 0, 0, 1])),
                ..nic(1)
            },
            Nic {
                mac: None,
                ..nic(1)
            },
        ];
        for nic in bad {
            assert!(nic.check().is_err(), "{nic:?}");
        }
    }

    #[test]
    fn offloads_without_checksums_are_none() {
        assert_eq!(tap_offload(1 << VIRTIO_NET_F_GUEST_TSO4), 0);
        let both = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_CSUM;
        assert_eq!(tap_offload(both), offload::CSUM | offload::TSO4);
    }
}
