// SPDX-License-Identifier: Apache-2.0
//! What the worker threads work by: the NIC, the acknowledged features and the driver's settings,
//! combined anew whenever one of them changes.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_MRG_RXBUF,
};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

use crate::config::{Nic, has, tap_offload};
use crate::filter::{Filter, Modes};
use crate::header;
use crate::state::State;

/// The settings at one moment.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The features that were acknowledged.
    pub features: u64,
    /// The length of the header in front of each frame.
    pub header_bytes: usize,
    /// Whether a received frame may take several buffers.
    pub mergeable: bool,
    /// Whether indirect descriptors were negotiated.
    pub indirect: bool,
    /// The offloads that the driver can take, as flags of the tap.
    pub offloads: u32,
    /// The pairs in use, if the driver says so on a control queue that this process serves.
    pub pairs: Option<u16>,
    /// Which frames the driver receives.
    pub filter: Filter,
    /// Whether the link is up.
    pub link_up: bool,
}

impl Settings {
    /// Combines them.
    pub fn new(nic: &Nic, features: u64, state: &State, link_up: bool) -> Self {
        let control = has(features, VIRTIO_NET_F_CTRL_VQ);
        // A driver that cannot set modes receives everything.
        let modes = match state.modes {
            Some(modes) if control && has(features, VIRTIO_NET_F_CTRL_RX) => Modes {
                all_multicast: modes.all_multicast || state.multicast.overflown,
                all_unicast: modes.all_unicast || state.unicast.overflown,
                ..modes
            },
            _ => Modes::NEW,
        };
        Self {
            features,
            header_bytes: header::len_bytes(features),
            mergeable: has(features, VIRTIO_NET_F_MRG_RXBUF),
            indirect: has(features, VIRTIO_RING_F_INDIRECT_DESC),
            offloads: tap_offload(state.offloads.map_or(features, |asked| asked & features)),
            pairs: control.then(|| state.pairs.unwrap_or(1)),
            filter: Filter {
                by_vlan: control && has(features, VIRTIO_NET_F_CTRL_VLAN),
                mac: state.mac.or(nic.mac),
                modes,
                unicast: state.unicast.macs.clone(),
                multicast: state.multicast.macs.clone(),
                vlans: state.vlans,
            },
            link_up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Table;
    use host::tap::offload;
    use ipc::mac::MacAddress;
    use ipc::record::Guard;

    fn nic() -> Nic {
        Nic {
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            mtu: None,
            pairs: 2,
            queue_size: 256,
            uso: false,
            guard: Guard::default(),
        }
    }

    #[test]
    fn driver_that_has_asked_for_nothing_receives_everything_on_one_pair() {
        let settings = Settings::new(&nic(), nic().features(), &State::default(), true);
        assert!(settings.filter.modes.promiscuous);
        assert_eq!(settings.pairs, Some(1));
        assert!(settings.offloads & offload::TSO4 != 0);
    }

    #[test]
    fn table_too_long_to_keep_opens_the_filter() {
        let state = State {
            modes: Some(Modes::default()),
            multicast: Table::new(vec![MacAddress::BROADCAST; 65]),
            ..State::default()
        };
        let settings = Settings::new(&nic(), nic().features(), &state, true);
        assert!(settings.filter.modes.all_multicast && !settings.filter.modes.all_unicast);
    }

    #[test]
    fn offloads_asked_for_are_no_more_than_the_features() {
        let state = State {
            offloads: Some(1 << 1 | 1 << 8),
            ..State::default()
        };
        let settings = Settings::new(&nic(), 1 << 1 | 1 << 7, &state, true);
        assert_eq!(settings.offloads, offload::CSUM);
    }
}
