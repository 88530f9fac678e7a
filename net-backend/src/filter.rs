// SPDX-License-Identifier: Apache-2.0
//! Which frames the driver receives (virtio 1.2, §5.1.6.5.1 to §5.1.6.5.3): those for its own
//! address, for the addresses in its tables, for its VLANs, or all. Runs on the worker thread that
//! owns the receive queue.
//!
//! Where the specification leaves it open the filter behaves like QEMU's, for which drivers were
//! written:
//! - A new driver is in promiscuous mode until it switches that off. A driver that did not
//!   acknowledge VIRTIO_NET_F_CTRL_RX cannot, so it receives everything, whatever else it asks for.
//! - Promiscuous mode overrides every other mode and the VLANs.
//! - Then the VLANs count, for frames whose outermost tag is an 802.1Q tag; a priority tag counts as
//!   VLAN 0. For all other frames only modes and tables count.
//! - "No" overrides "all": with both, nothing of the kind is received.
//! - A table that is too long to be kept counts as "all" of its kind.
//!
//! It differs from QEMU's on purpose: each of the two tables has room for 64 addresses, where QEMU
//! has room for 64 in both together; and a NIC without a MAC address, whose frontend does not tell,
//! receives every unicast frame until its driver sets one.

use ipc::mac::MacAddress;

/// The most addresses that a table keeps; with more the filter is open.
pub const TABLE_MAX: usize = 64;
/// The VLANs, one bit each.
pub const VLAN_WORDS: usize = 4096 / 64;

const VLAN_TYPE: [u8; 2] = [0x81, 0x00];

/// Which frames are received, whatever the tables say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Modes {
    /// Everything.
    pub promiscuous: bool,
    /// Every multicast frame.
    pub all_multicast: bool,
    /// Every unicast frame.
    pub all_unicast: bool,
    /// No multicast frame.
    pub no_multicast: bool,
    /// No unicast frame.
    pub no_unicast: bool,
    /// No broadcast frame.
    pub no_broadcast: bool,
}

impl Modes {
    /// The modes of a driver that has not set any.
    pub const NEW: Self = Self {
        promiscuous: true,
        all_multicast: false,
        all_unicast: false,
        no_multicast: false,
        no_unicast: false,
        no_broadcast: false,
    };
}

/// Which frames are received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Whether VLANs count: the driver has acknowledged the VLAN filter.
    pub by_vlan: bool,
    /// The NIC's address, if it is known.
    pub mac: Option<MacAddress>,
    /// The modes, which override the tables.
    pub modes: Modes,
    /// Other addresses of the NIC, sorted.
    pub unicast: Vec<MacAddress>,
    /// The groups it is in, sorted.
    pub multicast: Vec<MacAddress>,
    /// The VLANs it is in.
    pub vlans: [u64; VLAN_WORDS],
}

impl Filter {
    /// Whether a frame with this beginning is received.
    pub fn wants(&self, frame: &[u8]) -> bool {
        if self.modes.promiscuous {
            return true;
        }
        let Some((destination, rest)) = frame.split_first_chunk::<6>() else {
            return true;
        };
        let kind = rest.get(6..10);
        self.in_vlan(kind.unwrap_or_default()) && self.is_for(MacAddress(*destination))
    }

    fn in_vlan(&self, tag: &[u8]) -> bool {
        match tag {
            [a, b, high, low] if self.by_vlan && [*a, *b] == VLAN_TYPE => {
                let vlan = usize::from(u16::from_be_bytes([*high, *low]) & 0xfff);
                self.vlans[vlan / 64] & (1 << (vlan % 64)) != 0
            }
            _ => true,
        }
    }

    fn is_for(&self, destination: MacAddress) -> bool {
        let modes = self.modes;
        if destination == MacAddress::BROADCAST {
            return !modes.no_broadcast;
        }
        if destination.is_group() {
            let member = || self.multicast.binary_search(&destination).is_ok();
            return !modes.no_multicast && (modes.all_multicast || member());
        }
        let own = || self.mac.is_none_or(|mac| mac == destination);
        let other = || self.unicast.binary_search(&destination).is_ok();
        !modes.no_unicast && (modes.all_unicast || own() || other())
    }
}

#[cfg(test)]
mod mode_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
    const GROUP: MacAddress = MacAddress([1, 0, 0x5e, 0, 0, 1]);

    fn filter() -> Filter {
        Filter {
            by_vlan: true,
            mac: Some(OWN),
            modes: Modes::default(),
            unicast: vec![],
            multicast: vec![],
            vlans: [0; VLAN_WORDS],
        }
    }

    fn frame(destination: MacAddress, vlan: Option<u16>) -> Vec<u8> {
        let mut frame = [destination.0, OTHER.0].concat();
        if let Some(vlan) = vlan {
            frame.extend(VLAN_TYPE);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend([8, 0, 0x45, 0]);
        frame
    }

    #[test]
    fn frames_for_others_are_not_wanted() {
        let filter = filter();
        assert!(filter.wants(&frame(OWN, None)));
        assert!(filter.wants(&frame(MacAddress::BROADCAST, None)));
        assert!(!filter.wants(&frame(OTHER, None)));
        assert!(!filter.wants(&frame(GROUP, None)));
    }

    #[test]
    fn tables_and_modes_open_the_filter() {
        let mut filter = filter();
        (filter.unicast, filter.multicast) = (vec![OTHER], vec![GROUP]);
        assert!(filter.wants(&frame(OTHER, None)) && filter.wants(&frame(GROUP, None)));
        filter.modes.no_multicast = true;
        filter.modes.no_unicast = true;
        filter.modes.no_broadcast = true;
        for mac in [OWN, OTHER, GROUP, MacAddress::BROADCAST] {
            assert!(!filter.wants(&frame(mac, None)), "{mac}");
        }
        filter.modes.promiscuous = true;
        assert!(filter.wants(&frame(OTHER, None)));
        assert!(filter.wants(&frame(OTHER, Some(7))));
    }

    #[test]
    fn vlans_count_only_for_tagged_frames_and_drivers_that_know_them() {
        let mut filter = filter();
        assert!(!filter.wants(&frame(OWN, Some(70))));
        filter.vlans[1] = 1 << 6;
        assert!(filter.wants(&frame(OWN, Some(70 | 0xe000))));
        assert!(!filter.wants(&frame(OWN, Some(71))));
        filter.by_vlan = false;
        assert!(filter.wants(&frame(OWN, Some(71))));
    }

    #[test]
    fn mac_reads_back_and_rubbish_is_refused() {
        assert_eq!("02:00:00:00:00:01".parse(), Ok(OWN));
        assert_eq!(OWN.to_string(), "02:00:00:00:00:01");
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "gg:00:00:00:00:00",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
