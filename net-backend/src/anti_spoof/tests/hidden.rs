// SPDX-License-Identifier: Apache-2.0
//! What is hidden where receivers look and a filter might not.
use super::*;

/// As much of a long frame as is copied, with its virtio header.
const COPIED_BYTES: usize = crate::tx_frame::HEAD_BYTES - host::tap::HEADER_BYTES;

/// Checks a frame of which only the beginning is copied.
fn check_long(frame: &[u8]) -> Result<(), Violation> {
    let rules = Rules {
        guard: &strict(),
        mac: Some(MAC),
    };
    rules.check(&Frame {
        head: &frame[..COPIED_BYTES],
        len_bytes: frame.len(),
        offload: None,
    })
}

/// An option of neighbour discovery that nobody knows.
fn padding(len_bytes: usize) -> Vec<u8> {
    let mut option = vec![0; len_bytes];
    option[..2].copy_from_slice(&[200, u8::try_from(len_bytes / 8).unwrap()]);
    option
}

#[test]
fn neighbour_discovery_longer_than_what_is_copied_is_refused() {
    let claim = [&[2, 1], &OTHER.0[..]].concat();
    let mut message = advertisement(OWN6, MAC);
    message.extend(padding(2000));
    message.extend(&claim);
    assert_eq!(check(&ipv6(OWN6, 58, &message)), Err(Violation::Neighbour));
    assert_eq!(
        check_long(&ipv6(OWN6, 58, &message)),
        Err(Violation::Evasive)
    );
    // Behind its end is what nobody reads.
    let mut padded = ipv6(OWN6, 58, &advertisement(OWN6, MAC));
    padded.extend([0; 2048]);
    assert_eq!(check_long(&padded), Ok(()));
}

#[test]
fn headers_longer_than_what_is_copied_are_refused() {
    let mut long = vec![UDP, 24, 0, 0];
    long.resize(200, 0);
    long.extend([0, 9, 2, 34]);
    long.resize(3000, 0);
    assert_eq!(check(&ipv6(OWN6, 60, &long)), Err(Violation::Dhcp));
    assert_eq!(check_long(&ipv6(OWN6, 60, &long)), Err(Violation::Evasive));
}

#[test]
fn neighbour_discovery_in_fragments_is_refused() {
    let fragment = |more: u8, payload: &[u8]| {
        let header = [58, 0, 0, more, 0, 0, 0, 1];
        ipv6(OWN6, 44, &[&header, payload].concat())
    };
    let message = advertisement(OWN6, MAC);
    // What is in the second fragment is not known here.
    assert_eq!(check(&fragment(1, &message)), Err(Violation::Evasive));
    assert_eq!(check(&fragment(0, &message)), Err(Violation::Evasive));
    assert_eq!(
        check(&ipv6(OWN6, 44, &[UDP, 0, 1, 0, 0, 0, 0])),
        Err(Violation::Evasive)
    );
    // A ping may be long.
    assert_eq!(check(&fragment(1, &[128; 64])), Ok(()));
}

#[test]
fn bytes_behind_the_end_of_a_packet_are_no_headers() {
    // A first fragment that ends within its extension headers; its receivers read the type of the
    // message in the next one.
    let header = [60, 0, 0, 1, 0, 0, 0, 1];
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    let mut frame = ipv6(OWN6, 44, &[header, options].concat());
    assert_eq!(check(&frame), Err(Violation::Evasive));
    frame.extend([128, 0, 0, 0]);
    assert_eq!(check(&frame), Err(Violation::Evasive));
    let mut datagram = ipv4_with(OWN4, 0x2000, UDP, &[]);
    datagram.extend([0, 9, 0, 9, 0, 0, 0, 0]);
    assert_eq!(check(&datagram), Err(Violation::Evasive));
    // An advertisement shorter than its options, and options that nobody reads.
    let mut message = ipv6(OWN6, 58, &advertisement(OWN6, MAC));
    message.extend([2, 0]);
    assert_eq!(check(&message), Ok(()));
}

#[test]
fn hop_by_hop_options_behind_other_headers_are_refused() {
    let first = [UDP, 0, 1, 4, 0, 0, 0, 0, 0, 9, 0, 9, 0, 8, 0, 0];
    assert_eq!(check(&ipv6(OWN6, 0, &first)), Ok(()));
    let later = [&[0, 0, 1, 4, 0, 0, 0, 0], &first[..]].concat();
    assert_eq!(check(&ipv6(OWN6, 60, &later)), Err(Violation::Evasive));
}

#[test]
fn packet_of_another_version_than_its_kind_is_refused() {
    let v6 = ipv6(OWN6, UDP, &[0, 9, 0, 9, 0, 0, 0, 0]);
    let mut wrong = v6.clone();
    wrong[12..14].copy_from_slice(&IPV4.to_be_bytes());
    assert_eq!(check(&wrong), Err(Violation::Evasive));
    let mut wrong = ipv4(OWN4, 0, [1000, 80]);
    wrong.resize(80, 0);
    wrong[12..14].copy_from_slice(&IPV6.to_be_bytes());
    assert_eq!(check(&wrong), Err(Violation::Evasive));
}

#[test]
fn old_tags_are_tags() {
    let offer = ipv4(OWN4, 0, [67, 68]);
    for tag in [0x9100_u16, 0x9200, 0x9300] {
        let mut tagged = offer.clone();
        let tag = tag.to_be_bytes();
        tagged.splice(12..12, [tag[0], tag[1], 0, 7]);
        assert_eq!(check(&tagged), Err(Violation::Dhcp), "{tag:x?}");
    }
    let mut about = arp(MAC, ROUTER4);
    about.splice(12..12, [0x91, 0, 0, 7, 0x81, 0, 0, 8]);
    assert_eq!(check(&about), Err(Violation::Neighbour));
}

#[test]
fn packet_in_an_802_3_frame_is_refused() {
    let snap = |kind: u16| {
        let header = [&[0xaa, 0xaa, 3, 0, 0, 0], &kind.to_be_bytes()[..]].concat();
        frame(MAC, 46, &[&header[..], &[0; 38]].concat())
    };
    for kind in [IPV4, IPV6, ARP, 0x8100] {
        assert_eq!(check(&snap(kind)), Err(Violation::Evasive), "{kind:x}");
    }
    // AppleTalk.
    assert_eq!(check(&snap(0x809b)), Ok(()));
    // Another protocol of 802.2, whatever it has where SNAP has a type.
    let other = [&[0x42, 0x42, 3, 0, 0, 0][..], &IPV4.to_be_bytes()].concat();
    assert_eq!(check(&frame(MAC, 8, &other)), Ok(()));
    assert_eq!(check(&frame(MAC, 3, &other[..3])), Ok(()));
}

#[test]
fn arp_of_another_form_is_refused() {
    let good = arp(MAC, OWN4);
    for (at, byte) in [(14, 1), (15, 7), (16, 0x86), (18, 8), (19, 16)] {
        let mut odd = good.clone();
        odd[at] = byte;
        assert_eq!(check(&odd), Err(Violation::Evasive), "{at}");
    }
    let mut ieee = good;
    ieee[15] = 6;
    assert_eq!(check(&ieee), Ok(()));
}

#[test]
fn reverse_arp_is_arp_and_its_server_is_one_of_dhcp() {
    let reverse = |mut frame: Vec<u8>, operation| {
        frame[12..14].copy_from_slice(&[0x80, 0x35]);
        frame[21] = operation;
        frame
    };
    assert_eq!(check(&reverse(arp(MAC, OWN4), 3)), Ok(()));
    assert_eq!(
        check(&reverse(arp(OTHER, OWN4), 3)),
        Err(Violation::Neighbour)
    );
    let reply = reverse(arp(MAC, OWN4), 4);
    assert_eq!(check(&reply), Err(Violation::Dhcp));
    assert_eq!(check_with(&open(), &reply), Ok(()));
}

#[test]
fn routers_message_is_refused_in_ipv4_too() {
    for kind in [5, 9] {
        let message = ipv4_with(OWN4, 0, 1, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(check(&message), Err(Violation::Router), "{kind}");
        assert_eq!(check_with(&open(), &message), Ok(()));
    }
    assert_eq!(check(&ipv4_with(OWN4, 0, 1, &[8, 0, 0, 0])), Ok(()));
}

#[test]
fn authentication_header_hides_nothing_in_ipv4() {
    let header = [UDP, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let authenticated = |ports: [u8; 4]| {
        let payload = [&header[..], &[0; 12], &ports, &[0; 4]].concat();
        ipv4_with(OWN4, 0, 51, &payload)
    };
    assert_eq!(check(&authenticated([0, 67, 0, 68])), Err(Violation::Dhcp));
    assert_eq!(check(&authenticated([0, 9, 0, 9])), Ok(()));
    let short = ipv4_with(OWN4, 0, 51, &[UDP, 0, 0, 0, 0, 0, 0, 1, 0, 9, 0, 9]);
    assert_eq!(check(&short), Err(Violation::Evasive));
}

#[test]
fn routers_own_advertisement_is_about_itself_where_it_may_be_one() {
    let advertises = |mac: MacAddress| {
        let message = [&[134, 0][..], &[0; 14], &[1, 1], &mac.0].concat();
        check_with(&open(), &ipv6(OWN6, 58, &message))
    };
    assert_eq!(advertises(MAC), Ok(()));
    assert_eq!(advertises(OTHER), Err(Violation::Neighbour));
}

#[test]
fn solicitation_and_redirect_are_about_the_sender_where_routers_may_be() {
    let sends = |kind: u8, fixed: usize, option: u8, mac: MacAddress| {
        let body = vec![0; fixed - 1];
        let message = [&[kind][..], &body, &[option, 1], &mac.0].concat();
        check_with(&open(), &ipv6(OWN6, 58, &message))
    };
    for (kind, fixed) in [(133, 8), (135, 24), (137, 40)] {
        assert_eq!(sends(kind, fixed, 1, MAC), Ok(()), "{kind}");
        let other = sends(kind, fixed, 1, OTHER);
        assert_eq!(other, Err(Violation::Neighbour), "{kind}");
    }
    // A redirect tells of another's address.
    assert_eq!(sends(137, 40, 2, OTHER), Ok(()));
}

#[test]
fn own_link_local_address_is_that_of_the_mac_address() {
    let message = advertisement(OWN6, MAC);
    for (interface, verdict) in [(0, Ok(())), (2 << 8, Err(Violation::SourceIp))] {
        let address = Ipv6Addr::new(0xfe80, 0, 0, 0, interface, 0xff, 0xfe00, 1);
        assert_eq!(check(&ipv6(address, 58, &message)), verdict, "{address}");
    }
}

#[test]
fn hidden_packet_is_refused_wherever_something_is_checked_of_ipv6() {
    let endless = ipv6(OWN6, 60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(10));
    for services in [false, true] {
        for mac in [false, true] {
            for ipv6 in [vec![], vec![OWN6]] {
                let checked = services || mac || !ipv6.is_empty();
                let guard = Guard {
                    mac,
                    services,
                    ipv4: vec![OWN4],
                    ipv6,
                };
                let passes = check_with(&guard, &endless).is_ok();
                assert_eq!(passes, !checked, "{guard:?}");
            }
        }
    }
}
