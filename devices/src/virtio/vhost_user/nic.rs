// SPDX-License-Identifier: Apache-2.0
//! What the vmm itself provides of a network card (virtio 1.2 §5.1): always the link state, so that
//! it can change without the backend; the MAC address and the number of queues if the backend
//! provides neither, as external backends may not.

use std::ops::Range;

/// The length of `struct virtio_net_config` up to and including `mtu` (§5.1.4).
pub(super) const CONFIG_LEN: usize = 12;
const MAC: Range<usize> = 0..6;
const STATUS: Range<usize> = 6..8;
const MAX_VIRTQUEUE_PAIRS: Range<usize> = 8..10;
/// `VIRTIO_NET_S_LINK_UP`, in the first byte of `status` (§5.1.4).
const LINK_UP: u8 = 1;

/// Feature bits (§5.1.3).
mod feature {
    pub(super) const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
    pub(super) const MTU: u64 = 1 << 3;
    pub(super) const MAC: u64 = 1 << 5;
    pub(super) const STATUS: u64 = 1 << 16;
    pub(super) const CTRL_VQ: u64 = 1 << 17;
    pub(super) const CTRL_RX: u64 = 1 << 18;
    pub(super) const CTRL_VLAN: u64 = 1 << 19;
    pub(super) const CTRL_RX_EXTRA: u64 = 1 << 20;
    pub(super) const GUEST_ANNOUNCE: u64 = 1 << 21;
    pub(super) const MQ: u64 = 1 << 22;
    pub(super) const CTRL_MAC_ADDR: u64 = 1 << 23;
    pub(super) const VQ_NOTF_COAL: u64 = 1 << 52;
    pub(super) const NOTF_COAL: u64 = 1 << 53;
    pub(super) const HASH_REPORT: u64 = 1 << 57;
    pub(super) const RSS: u64 = 1 << 60;
    pub(super) const STANDBY: u64 = 1 << 62;
    pub(super) const SPEED_DUPLEX: u64 = 1 << 63;
}
use feature::*;

/// The features that need a control queue (§5.1.3.1).
const BY_CONTROL_QUEUE: u64 = CTRL_VQ
    | CTRL_GUEST_OFFLOADS
    | CTRL_RX
    | CTRL_VLAN
    | CTRL_RX_EXTRA
    | GUEST_ANNOUNCE
    | MQ
    | CTRL_MAC_ADDR
    | VQ_NOTF_COAL
    | NOTF_COAL
    | HASH_REPORT
    | RSS;
/// The features that need a configuration field beyond [`CONFIG_LEN`], or a second card.
const UNUSABLE: u64 = HASH_REPORT | RSS | STANDBY | SPEED_DUPLEX;

/// What a driver is offered of a card: features and configuration space, with the link down.
/// `backend` and `config` are those of the backend, `queues` is the number of queues: odd if the
/// last one is a control queue.
pub(super) fn shown(
    backend: u64,
    config: Option<&[u8]>,
    mac: [u8; 6],
    queues: usize,
) -> (u64, Vec<u8>) {
    let mut features = (backend | feature::MAC | feature::STATUS) & !UNUSABLE;
    if queues.is_multiple_of(2) {
        features &= !BY_CONTROL_QUEUE;
    }
    let mut space = config.unwrap_or_default().to_vec();
    space.resize(CONFIG_LEN, 0);
    if config.is_none() {
        features &= !MTU;
        let pairs = u16::try_from(queues / 2).unwrap_or(u16::MAX);
        space[MAX_VIRTQUEUE_PAIRS].copy_from_slice(&pairs.to_le_bytes());
    }
    if config.is_none() || backend & feature::MAC == 0 {
        space[self::MAC].copy_from_slice(&mac);
    }
    space[self::STATUS].fill(0);
    (features, space)
}

/// The bits of the byte at this offset that depend on the link.
pub(super) fn link_bits(offset: usize, up: bool) -> u8 {
    if up && offset == self::STATUS.start {
        LINK_UP
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const THEIRS: [u8; CONFIG_LEN] = [2, 1, 1, 1, 1, 1, 1, 0, 4, 0, 0xdc, 5];
    const MRG_RXBUF: u64 = 1 << 15;

    #[test]
    fn card_of_a_backend_that_knows_nothing_has_our_address_and_as_many_pairs_as_queues() {
        let (features, space) = shown(MRG_RXBUF | MTU, None, OURS, 2);
        assert_eq!(features, MRG_RXBUF | feature::MAC | feature::STATUS);
        assert_eq!(space, [2, 0, 0, 0, 0, 7, 0, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn card_of_a_backend_that_knows_is_as_it_says_but_for_the_link() {
        let all = feature::MAC | MTU | MQ | CTRL_VQ;
        let (features, space) = shown(all, Some(&THEIRS), OURS, 9);
        assert_eq!(features, all | feature::STATUS);
        assert_eq!(space, [2, 1, 1, 1, 1, 1, 0, 0, 4, 0, 0xdc, 5]);
        let (_, space) = shown(MTU, Some(&THEIRS), OURS, 9);
        assert_eq!(space[..6], OURS);
    }

    #[test]
    fn control_queue_that_was_not_asked_for_is_masked_with_all_that_needs_it() {
        let (features, _) = shown(u64::MAX, None, OURS, 4);
        assert_eq!(features & BY_CONTROL_QUEUE, 0);
        let (features, _) = shown(u64::MAX, None, OURS, 5);
        assert_ne!(features & MQ, 0);
        assert_eq!(features & UNUSABLE, 0);
    }

    #[test]
    fn link_is_one_bit_of_the_status() {
        assert_eq!([5, 6, 7].map(|at| link_bits(at, true)), [0, 1, 0]);
        assert_eq!(link_bits(6, false), 0);
    }
}
