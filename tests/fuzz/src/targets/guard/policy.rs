// SPDX-License-Identifier: Apache-2.0
//! The rules of the guard once more, told from what etherparse finds: nothing of this may leave.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice};
use ipc::mac::MacAddress;
use ipc::record::Guard;

/// A server's port and a client's.
const DHCP: [u16; 2] = [67, 68];
const DHCPV6: [u16; 2] = [547, 546];

/// Looks at a frame that leaves.
pub(super) fn check(guard: &Guard, mac: MacAddress, frame: &[u8]) {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
        return;
    };
    let Some(LinkSlice::Ethernet2(link)) = &packet.link else {
        return;
    };
    let is_secret = |ext: &LaxLinkExtSlice<'_>| matches!(ext, LaxLinkExtSlice::Macsec(_));
    if packet.link_exts.iter().any(is_secret) {
        return;
    }
    if guard.mac {
        assert_eq!(link.source(), mac.0);
    }
    let [a, b, c, d, e, last] = link.destination();
    if guard.services {
        let bridge = [a, b, c, d, e] == [1, 0x80, 0xc2, 0, 0] && matches!(last >> 4, 0 | 2);
        assert!(!bridge && [a, b, c] != [1, 0, 0x0c], "to a switch");
    }
    match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => {
            if guard.mac {
                assert_eq!(arp.sender_hw_addr(), mac.0);
            }
            if let Ok(address) = <[u8; 4]>::try_from(arp.sender_protocol_addr()) {
                is_own_ipv4(guard, address.into());
            }
        }
        Some(LaxNetSlice::Ipv4(ip)) if ip.header().payload_len().is_ok() => {
            is_own_ipv4(guard, ip.header().source_addr());
            if ip.header().fragments_offset().value() == 0 {
                message(
                    guard,
                    mac,
                    DHCP,
                    ip.payload().ip_number,
                    ip.payload().payload,
                );
            }
        }
        Some(LaxNetSlice::Ipv6(ip)) if ip.header().payload_length() > 0 => {
            is_own_ipv6(guard, mac, ip.header().source_addr());
            if !super::is_later(ip.extensions()) {
                message(
                    guard,
                    mac,
                    DHCPV6,
                    ip.payload().ip_number,
                    ip.payload().payload,
                );
            }
        }
        _ => {}
    }
}

fn is_own_ipv4(guard: &Guard, address: Ipv4Addr) {
    let own = guard.ipv4.is_empty() || guard.ipv4.contains(&address);
    assert!(own || address.is_unspecified(), "from {address}");
}

fn is_own_ipv6(guard: &Guard, mac: MacAddress, address: Ipv6Addr) {
    let [a, b, c, d, e, f] = mac.0;
    let local = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let local = address.octets() == [&[0xfe, 0x80, 0, 0, 0, 0, 0, 0], &local[..]].concat()[..];
    let own = guard.ipv6.is_empty() || guard.ipv6.contains(&address) || local;
    assert!(own || address.is_unspecified(), "from {address}");
}

/// What an IP packet carries, if it is not the rest of something.
fn message(guard: &Guard, mac: MacAddress, dhcp: [u16; 2], protocol: IpNumber, bytes: &[u8]) {
    let port = |at: usize| {
        bytes
            .get(at..at + 2)
            .map(|p| u16::from_be_bytes([p[0], p[1]]))
    };
    match protocol {
        IpNumber::UDP if guard.services => {
            let [server, client] = dhcp.map(Some);
            assert!(port(0) != server && port(2) != client, "{bytes:02x?}");
        }
        IpNumber::ICMP if guard.services => {
            assert!(!matches!(bytes.first(), Some(5 | 9)), "a router's message");
        }
        IpNumber::IPV6_ICMP => {
            let kind = bytes.first().copied().unwrap_or(0);
            assert!(!guard.services || !matches!(kind, 134 | 137), "a router");
            let options_at = match kind {
                133 => 8,
                134 => 16,
                135 | 136 => 24,
                _ => return,
            };
            if kind == 136 {
                let target = bytes.get(8..24).map(|b| <[u8; 16]>::try_from(b).unwrap());
                let own = |b: [u8; 16]| is_own_ipv6(guard, mac, b.into());
                target.into_iter().for_each(own);
            }
            let mut options = bytes.get(options_at..).unwrap_or_default();
            while let [number, len, ..] = options {
                if *len == 0 {
                    break;
                }
                let (option, rest) = options.split_at(options.len().min(usize::from(*len) * 8));
                let claims = guard.mac && matches!(number, 1 | 2);
                assert!(!claims || option.get(2..8) == Some(&mac.0), "{option:02x?}");
                options = rest;
            }
        }
        _ => {}
    }
}
