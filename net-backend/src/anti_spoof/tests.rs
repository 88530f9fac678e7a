// SPDX-License-Identifier: Apache-2.0
use super::*;
use std::sync::atomic::Ordering::Relaxed;

mod hidden;
mod offloads;
mod switches;

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const ROUTER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn strict() -> Guard {
    Guard {
        mac: true,
        services: true,
        ipv4: vec![OWN4],
        ipv6: vec![OWN6],
    }
}

fn check_with(guard: &Guard, frame: &[u8]) -> Result<(), Violation> {
    let mac = Some(MAC);
    Rules { guard, mac }.check(&Frame {
        head: frame,
        len_bytes: frame.len(),
        offload: None,
    })
}

fn check(frame: &[u8]) -> Result<(), Violation> {
    check_with(&strict(), frame)
}

fn frame(source: MacAddress, kind: u16, packet: &[u8]) -> Vec<u8> {
    let parts: [&[u8]; 4] = [
        &MacAddress::BROADCAST.0,
        &source.0,
        &kind.to_be_bytes(),
        packet,
    ];
    parts.concat()
}

fn arp(sender: MacAddress, address: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 2];
    packet.extend(sender.0);
    packet.extend(address.octets());
    packet.extend([0; 10]);
    frame(MAC, ARP, &packet)
}

fn ipv4_with(source: Ipv4Addr, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend([255; 4]);
    packet.extend(payload);
    frame(MAC, IPV4, &packet)
}

fn ipv4(source: Ipv4Addr, fragment: u16, ports: [u16; 2]) -> Vec<u8> {
    let datagram = [&ports.map(u16::to_be_bytes).concat()[..], &[0; 8]].concat();
    ipv4_with(source, fragment, UDP, &datagram)
}

fn ipv6(source: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(source.octets());
    packet.extend([0xff; 16]);
    packet.extend(payload);
    frame(MAC, IPV6, &packet)
}

fn advertisement(target: Ipv6Addr, mac: MacAddress) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    message
}

#[test]
fn frame_from_another_mac_is_refused_unless_allowed() {
    let spoofed = frame(OTHER, 0x88b5, &[]);
    assert_eq!(check(&spoofed), Err(Violation::SourceMac));
    let open = Guard {
        mac: false,
        ..strict()
    };
    assert_eq!(check_with(&open, &spoofed), Ok(()));
    assert_eq!(check(&MAC.0), Err(Violation::SourceMac));
}

#[test]
fn arp_about_others_is_refused() {
    assert_eq!(check(&arp(MAC, OWN4)), Ok(()));
    assert_eq!(check(&arp(MAC, Ipv4Addr::UNSPECIFIED)), Ok(()));
    assert_eq!(check(&arp(MAC, ROUTER4)), Err(Violation::Neighbour));
    assert_eq!(check(&arp(OTHER, OWN4)), Err(Violation::Neighbour));
    assert_eq!(check(&arp(MAC, OWN4)[..30]), Err(Violation::Evasive));
}

#[test]
fn ipv4_from_another_address_is_refused() {
    assert_eq!(check(&ipv4(OWN4, 0, [1000, 80])), Ok(()));
    let spoofed = ipv4(ROUTER4, 0, [1000, 80]);
    assert_eq!(check(&spoofed), Err(Violation::SourceIp));
    let any = Guard::default();
    assert_eq!(check_with(&any, &spoofed), Ok(()));
}

#[test]
fn ipv4_without_an_address_may_only_ask_for_one() {
    let none = Ipv4Addr::UNSPECIFIED;
    assert_eq!(check(&ipv4(none, 0, [68, 67])), Ok(()));
    assert_eq!(check(&ipv4(none, 0, [68, 53])), Err(Violation::SourceIp));
    assert_eq!(check(&ipv4(none, 0, [67, 67])), Err(Violation::Dhcp));
    assert_eq!(check_with(&open(), &ipv4(none, 0, [67, 67])), Ok(()));
}

#[test]
fn dhcp_server_is_refused_even_in_tags_and_fragments() {
    let offer = ipv4(OWN4, 0, [67, 68]);
    assert_eq!(check(&offer), Err(Violation::Dhcp));
    let first = ipv4(OWN4, 0x2000, [67, 68]);
    assert_eq!(check(&first), Err(Violation::Dhcp));
    assert_eq!(check(&ipv4(OWN4, 5, [67, 68])), Ok(()));
    assert_eq!(check(&offer[..36]), Err(Violation::Evasive));
    for tags in 1..=3 {
        let mut tagged = offer[..12].to_vec();
        (0..tags).for_each(|_| tagged.extend([0x81, 0, 0, 7]));
        tagged.extend(&offer[12..]);
        let expected = if tags < 3 {
            Violation::Dhcp
        } else {
            Violation::Evasive
        };
        assert_eq!(check(&tagged), Err(expected));
    }
}

/// The rules of a guest that may be a DHCP server.
fn open() -> Guard {
    Guard {
        services: false,
        ..strict()
    }
}

#[test]
fn dhcp_server_is_refused_whichever_port_it_speaks_from() {
    for ports in [[67, 68], [67, 1000], [1000, 68], [68, 68], [53, 68]] {
        let offer = ipv4(OWN4, 0, ports);
        assert_eq!(check(&offer), Err(Violation::Dhcp), "{ports:?}");
        assert_eq!(check_with(&open(), &offer), Ok(()), "{ports:?}");
    }
    // A client renews its lease.
    assert_eq!(check(&ipv4(OWN4, 0, [68, 67])), Ok(()));
}

#[test]
fn ipv4_header_that_makes_no_sense_is_refused() {
    let mut packet = ipv4(OWN4, 0, [1, 2]);
    packet[14] = 0x44;
    assert_eq!(check(&packet), Err(Violation::Evasive));
    packet[14] = 0x65;
    assert_eq!(check(&packet), Err(Violation::Evasive));
    packet[14] = 0x4f;
    assert_eq!(check_with(&open(), &packet), Err(Violation::Evasive));
}

#[test]
fn ipv6_from_another_address_is_refused() {
    let udp = [0x30, 0, 0, 53];
    assert_eq!(check(&ipv6(OWN6, UDP, &udp)), Ok(()));
    assert_eq!(check(&ipv6(link_local(MAC), UDP, &udp)), Ok(()));
    assert_eq!(check(&ipv6(ROUTER6, UDP, &udp)), Err(Violation::SourceIp));
}

#[test]
fn router_advertisement_is_refused_behind_any_header() {
    let message = [134, 0, 0, 0];
    assert_eq!(check(&ipv6(OWN6, 58, &message)), Err(Violation::Router));
    let mut hidden = vec![60, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 0, 0, 0, 0];
    hidden.extend([58, 0, 0, 1, 0, 0, 0, 0]);
    hidden.extend(message);
    assert_eq!(check(&ipv6(OWN6, 0, &hidden)), Err(Violation::Router));
    assert_eq!(
        check(&ipv6(OWN6, 0, &hidden[..24])),
        Err(Violation::Evasive)
    );
    let endless = [60, 0, 0, 0, 0, 0, 0, 0].repeat(10);
    assert_eq!(check(&ipv6(OWN6, 60, &endless)), Err(Violation::Evasive));
    assert_eq!(check(&ipv6(OWN6, 58, &[137, 0])), Err(Violation::Router));
}

#[test]
fn dhcpv6_server_is_refused_whichever_port_it_speaks_from() {
    let datagram = |ports: [u16; 2]| {
        let bytes = ports.map(u16::to_be_bytes).concat();
        ipv6(OWN6, UDP, &bytes)
    };
    for ports in [[547, 546], [547, 1000], [1000, 546], [546, 546]] {
        assert_eq!(check(&datagram(ports)), Err(Violation::Dhcp), "{ports:?}");
        assert_eq!(check_with(&open(), &datagram(ports)), Ok(()), "{ports:?}");
    }
    assert_eq!(check(&datagram([546, 547])), Ok(()));
}

#[test]
fn dhcpv6_server_is_refused_in_a_first_fragment() {
    let fragment = |offset: u16, datagram: &[u8]| {
        let [high, low] = (offset << 3 | 1).to_be_bytes();
        let header = [UDP, 0, high, low, 0, 0, 0, 1];
        ipv6(OWN6, 44, &[&header[..], datagram].concat())
    };
    assert_eq!(check(&fragment(0, &[9, 9, 2, 34])), Err(Violation::Dhcp));
    assert_eq!(check(&fragment(0, &[9, 9])), Err(Violation::Evasive));
    assert_eq!(check(&fragment(1, &[9, 9, 2, 34])), Ok(()));
}

#[test]
fn neighbour_discovery_about_others_is_refused() {
    let own = advertisement(OWN6, MAC);
    assert_eq!(check(&ipv6(OWN6, 58, &own)), Ok(()));
    let other = advertisement(ROUTER6, MAC);
    assert_eq!(check(&ipv6(OWN6, 58, &other)), Err(Violation::Neighbour));
    let mac = advertisement(OWN6, OTHER);
    assert_eq!(check(&ipv6(OWN6, 58, &mac)), Err(Violation::Neighbour));
    let mut endless = own;
    endless[25] = 0;
    assert_eq!(check(&ipv6(OWN6, 58, &endless)), Err(Violation::Evasive));
}

#[test]
fn frame_with_nothing_behind_its_addresses_is_refused() {
    assert_eq!(
        check(&[MacAddress::BROADCAST.0, MAC.0].concat()),
        Err(Violation::Evasive)
    );
}

#[test]
fn offence_is_counted_under_its_own_name() {
    let drops = Drops::default();
    let violations = [
        (Violation::SourceMac, "source-mac"),
        (Violation::SourceIp, "source-ip"),
        (Violation::Neighbour, "neighbour"),
        (Violation::Dhcp, "dhcp"),
        (Violation::Router, "router"),
        (Violation::Evasive, "evasive"),
        (Violation::Checksum, "checksum"),
        (Violation::LinkControl, "link-control"),
    ];
    for (number, (violation, _)) in (1..).zip(violations) {
        violation.counter(&drops).store(number, Relaxed);
    }
    let counted = drops.by_reason();
    for (number, (_, reason)) in (1..).zip(violations) {
        assert!(counted.contains(&(reason, number)), "{reason}: {counted:?}");
    }
}
