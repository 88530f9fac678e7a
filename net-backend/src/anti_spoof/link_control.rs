// SPDX-License-Identifier: Apache-2.0
//! Control frames that switches and their ports exchange: spanning tree, link aggregation,
//! discovery, flow control, VLAN registration. If the host's bridge or a switch behind it takes
//! part, a guest that sends them can become the root of the tree, or stop a port.

/// EtherTypes of control frames, which may also go to other addresses.
mod kind {
    /// PAUSE (IEEE 802.3, annex 31).
    pub(super) const MAC_CONTROL: u16 = 0x8808;
    /// LACP and others (IEEE 802.3, annex 57).
    pub(super) const SLOW: u16 = 0x8809;
    pub(super) const LLDP: u16 = 0x88cc;
}

/// Whether a frame with this beginning is addressed to switches.
pub(super) fn is_destination(head: &[u8]) -> bool {
    match head {
        // To the switch at the other end of a link (IEEE 802.1Q, table 8-1); registration of VLANs and
        // groups (table 10-1).
        [0x01, 0x80, 0xc2, 0, 0, 0x00..=0x0f | 0x20..=0x2f, ..] => true,
        // Cisco's: CDP, VTP, DTP, UDLD, a spanning tree for each VLAN.
        [0x01, 0x00, 0x0c, ..] => true,
        _ => false,
    }
}

/// Whether a frame of this type is for switches, whatever its address.
pub(super) fn is_kind(kind: u16) -> bool {
    matches!(kind, kind::MAC_CONTROL | kind::SLOW | kind::LLDP)
}
