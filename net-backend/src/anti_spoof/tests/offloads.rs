// SPDX-License-Identifier: Apache-2.0
//! What the kernel may be asked to write into a frame that was checked.
use super::*;
use crate::header::{Offload, Segments};

/// Where the transport header is, behind Ethernet and IPv4, or IPv6.
const L4: u16 = 34;
const L6: u16 = 54;

fn check_offload(
    guard: &Guard,
    frame: &[u8],
    (start, offset): (u16, u16),
    segments: Option<(Segments, u16)>,
) -> Result<(), Violation> {
    let rules = Rules {
        guard,
        mac: Some(MAC),
    };
    rules.check(&Frame {
        head: frame,
        len_bytes: frame.len(),
        offload: Some(Offload {
            checksum_start: start,
            checksum_offset: offset,
            segments,
        }),
    })
}

fn tcp4() -> Vec<u8> {
    ipv4_with(OWN4, 0, TCP, &[0x50; 100])
}

fn udp4() -> Vec<u8> {
    ipv4(OWN4, 0, [1234, 9999])
}

#[test]
fn port_written_after_the_check_is_refused() {
    // The sum of what is behind 34 becomes the port to which the datagram goes: 68.
    let refused = check_offload(&strict(), &udp4(), (L4, 2), None);
    assert_eq!(refused, Err(Violation::Checksum));
}

#[test]
fn checksum_elsewhere_than_in_the_transport_header_is_refused() {
    let mut address = arp(MAC, OWN4);
    address.resize(60, 0);
    let cases: [(&[u8], u16, u16); 12] = [
        // The end of a sender's address in ARP, an EtherType, an IP source, a source MAC.
        (&address, 14, 16),
        (&udp4(), 0, 12),
        (&udp4(), 14, 12),
        (&udp4(), 0, 10),
        (&udp4(), L4, 16),
        (&udp4(), L4 + 2, 4),
        (&udp4(), L4 - 2, 8),
        (&tcp4(), L4, 6),
        (&tcp4(), L4 + 16, 0),
        (&tcp4(), L4 + 20, 16),
        (&frame(MAC, 0x88b5, &[0; 60]), L4, 16),
        (&ipv6(OWN6, 58, &[128; 60]), L6, 2),
    ];
    for (number, (sent, start, offset)) in cases.iter().enumerate() {
        let refused = check_offload(&strict(), sent, (*start, *offset), None);
        assert_eq!(refused, Err(Violation::Checksum), "case {number}");
    }
}

#[test]
fn checksum_of_tcp_udp_and_gre_is_left_to_the_kernel() {
    let mut options = tcp4();
    options[14] = 0x46;
    let mut tagged = udp4();
    tagged.splice(12..12, [0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]);
    let behind = [&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &[0x50; 60]].concat();
    let gre = [&[0x80, 0, 8, 0, 0, 0, 0, 0][..], &tcp4()[14..]].concat();
    let cases = [
        (tcp4(), L4, 16),
        (udp4(), L4, 6),
        (options, L4 + 4, 16),
        (tagged, L4 + 8, 6),
        (ipv6(OWN6, TCP, &[0x50; 60]), L6, 16),
        (ipv6(OWN6, UDP, &[0x50; 60]), L6, 6),
        (ipv6(OWN6, 60, &behind), L6 + 8, 16),
        (ipv4_with(OWN4, 0, GRE, &gre), L4, 4),
    ];
    for (number, (sent, start, offset)) in cases.iter().enumerate() {
        let sent = check_offload(&strict(), sent, (*start, *offset), None);
        assert_eq!(sent, Ok(()), "case {number}");
    }
}

#[test]
fn checksum_in_a_tunnel_of_sctp_or_of_a_fragment_is_refused() {
    let inner = tcp4();
    let behind = [&[TCP, 0, 0, 1, 0, 0, 0, 1][..], &[0x50; 60]].concat();
    let gre = [&[0, 0, 8, 0][..], &inner[14..]].concat();
    let cases = [
        // TCP in IP in IP, TCP in VXLAN, GRE without a checksum, SCTP.
        (ipv4_with(OWN4, 0, 4, &inner[14..]), L4 + 20, 16),
        (
            ipv4_with(OWN4, 0, UDP, &[&[0x12; 16][..], &inner].concat()),
            L4 + 50,
            16,
        ),
        (ipv4_with(OWN4, 0, GRE, &gre), L4, 4),
        (ipv4_with(OWN4, 0, 132, &[0x50; 60]), L4, 8),
        // First fragments, and one that is not.
        (ipv4_with(OWN4, 0x2000, TCP, &[0x50; 64]), L4, 16),
        (ipv4_with(OWN4, 8, TCP, &[0x50; 64]), L4, 16),
        (ipv6(OWN6, 44, &behind), L6 + 8, 16),
    ];
    for (number, (sent, start, offset)) in cases.iter().enumerate() {
        let refused = check_offload(&strict(), sent, (*start, *offset), None);
        assert_eq!(refused, Err(Violation::Checksum), "case {number}");
    }
}

#[test]
fn segments_of_what_the_packet_is_not_are_refused() {
    let tcp6 = ipv6(OWN6, TCP, &[0x50; 600]);
    let udp6 = ipv6(OWN6, UDP, &[0x50; 600]);
    let kinds = [
        Segments::Tcp4,
        Segments::Tcp6,
        Segments::Udp,
        Segments::UdpFragments,
    ];
    let cases = [
        (tcp4(), L4, 16, [true, false, false, false]),
        (tcp6, L6, 16, [false, true, false, false]),
        (udp4(), L4, 6, [false, false, true, true]),
        (udp6, L6, 6, [false, false, true, true]),
    ];
    for (sent, start, offset, expected) in cases {
        let allowed = kinds
            .map(|kind| check_offload(&strict(), &sent, (start, offset), Some((kind, 64))).is_ok());
        assert_eq!(allowed, expected, "{start} {offset}");
    }
    // Shorter fragments would have several beginnings, with ports of the guest's choice.
    for size in [1, 4, 7, 12] {
        let kind = Some((Segments::UdpFragments, size));
        let refused = check_offload(&strict(), &udp4(), (L4, 6), kind);
        assert_eq!(refused, Err(Violation::Checksum), "{size}");
    }
}

#[test]
fn length_of_a_packet_that_is_cut_into_segments_is_the_kernels_to_write() {
    for said in [0, 1 << 12] {
        let mut sent = tcp4();
        sent[16..18].copy_from_slice(&u16::to_be_bytes(said));
        let segments = Some((Segments::Tcp4, 64));
        assert_eq!(check_offload(&strict(), &sent, (L4, 16), segments), Ok(()));
    }
}

#[test]
fn offload_is_refused_by_every_check_and_by_none() {
    let none = Guard {
        mac: false,
        services: false,
        ipv4: vec![],
        ipv6: vec![],
    };
    let each = [
        Guard {
            mac: true,
            ..none.clone()
        },
        Guard {
            services: true,
            ..none.clone()
        },
        Guard {
            ipv4: vec![OWN4],
            ..none.clone()
        },
        Guard {
            ipv6: vec![OWN6],
            ..none.clone()
        },
    ];
    for guard in each {
        let refused = check_offload(&guard, &udp4(), (L4, 2), None);
        assert_eq!(refused, Err(Violation::Checksum), "{guard:?}");
    }
    assert_eq!(check_offload(&none, &udp4(), (L4, 2), None), Ok(()));
}
