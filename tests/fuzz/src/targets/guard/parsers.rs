// SPDX-License-Identifier: Apache-2.0
//! Whether both parsers find the same in a frame.

use etherparse::{EtherType, LaxIpPayloadSlice, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket};
use net_backend::anti_spoof::packet::{Frame, Message, Packet, Transport};

/// Tags that the guard walks and etherparse does not know, and a packet of ARP's form.
const UNKNOWN: [EtherType; 3] = [EtherType(0x9200), EtherType(0x9300), EtherType(0x8035)];

/// Compares them. `whole` is all of the frame.
pub(super) fn compare(frame: &Frame<'_>, whole: &[u8]) {
    let ours = Packet::parse(frame);
    let Ok(theirs) = LaxSlicedPacket::from_ethernet(whole) else {
        assert!(ours.is_none(), "{ours:?} in a frame too short for one");
        return;
    };
    let is_secret = |ext: &LaxLinkExtSlice<'_>| matches!(ext, LaxLinkExtSlice::Macsec(_));
    if theirs.link_exts.iter().any(is_secret) {
        // To the guard that is another kind of frame.
        return;
    }
    let kind = theirs.ether_payload().map(|payload| payload.ether_type);
    match (&ours, &theirs.net) {
        // Refused.
        (None, _) => {}
        (Some(_), _) if kind.is_some_and(|kind| UNKNOWN.contains(&kind)) => {}
        (Some(Packet::Arp(message)), Some(LaxNetSlice::Arp(arp))) => {
            assert!(message.starts_with(&arp.slice()[..arp.slice().len().min(message.len())]));
        }
        (Some(Packet::Arp(_)), None) => {}
        (Some(Packet::Ipv4(source, transport)), Some(LaxNetSlice::Ipv4(packet))) => {
            assert_eq!(*source, packet.header().source_addr());
            let bounded = packet.header().payload_len().is_ok();
            let later = packet.header().fragments_offset().value() != 0;
            agree(whole, *transport, packet.payload(), bounded, later);
        }
        (Some(Packet::Ipv6(source, transport)), Some(LaxNetSlice::Ipv6(packet))) => {
            assert_eq!(*source, packet.header().source_addr());
            let bounded = packet.header().payload_length() > 0;
            let later = super::is_later(packet.extensions());
            agree(whole, *transport, packet.payload(), bounded, later);
        }
        (Some(Packet::Other(_)), None) => {}
        (ours, theirs) => unreachable!("{ours:?} is not {theirs:?}"),
    }
}

/// Whether a transport that both have found is the same. `bounded` says whether etherparse goes by the
/// length of the packet; if that makes no sense it goes by the frame's. `later` says whether the beginning
/// of the message is in another packet.
fn agree(
    whole: &[u8],
    ours: Transport<'_>,
    theirs: &LaxIpPayloadSlice<'_>,
    bounded: bool,
    later: bool,
) {
    let same = |message: Message<'_>| {
        let begin = theirs.payload.as_ptr().addr() - whole.as_ptr().addr();
        assert_eq!(message.protocol, theirs.ip_number.0);
        assert_eq!(message.offset, begin);
        if bounded {
            assert_eq!(message.len_bytes, theirs.payload.len());
        }
    };
    match ours {
        Transport::Whole(message) => {
            assert!(!theirs.fragmented && !later, "taken for a whole message");
            same(message);
        }
        // Of a fragment that is the only one etherparse says that it is whole.
        Transport::First(message) => {
            assert!(!later, "taken for the beginning");
            same(message);
        }
        Transport::Later => assert!(later, "taken for the rest of something"),
        // Refused where it matters.
        Transport::Hidden => {}
    }
}
