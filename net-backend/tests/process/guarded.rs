// SPDX-License-Identifier: Apache-2.0
//! What a guest may not send does not reach the host.

use crate::stand::{GUEST, HOST, MOMENT, PATIENCE, SHAPE, Stand, frame};

const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn frame_from_another_mac_is_used_and_not_sent() {
    let arguments = ["--mac", "02:00:00:00:00:01", "--guard", "mac,services"];
    let mut stand = Stand::new("spoofed", &arguments, SHAPE);
    stand.send(&frame(HOST, STRANGER, 1, 100));
    stand.settle();
    assert_eq!(stand.host_sees(MOMENT), None);
    let good = frame(HOST, GUEST, 2, 100);
    stand.send(&good);
    assert_eq!(stand.host_sees(PATIENCE).unwrap(), good);
    stand.expect_dropped(&[("source-mac", 1)]);
}

#[test]
fn what_the_guard_refuses_is_counted_by_its_reason() {
    let guard = "mac,services,ip=10.0.0.5";
    let arguments = ["--mac", "02:00:00:00:00:01", "--guard", guard];
    let mut stand = Stand::new("reasons", &arguments, SHAPE);
    // IPv4 from another; ARP about another; a DHCP offer; a router's advertisement; a tag with
    // nothing behind it.
    let datagram = |last| {
        let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, last];
        [&header[..], &[255; 4], &[0, 9, 0, 68]].concat()
    };
    let (other, offer) = (datagram(6), datagram(5));
    let arp = [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 6];
    let router = [&[0x60, 0, 0, 0, 0, 8, 58, 255][..], &[0xfe; 32], &[134, 0]].concat();
    let parts: [(&[u8], &[u8]); 5] = [
        (&[8, 0], &other),
        (&[8, 6], &arp),
        (&[8, 0], &offer),
        (&[0x86, 0xdd], &router),
        (&[0x81, 0], &[]),
    ];
    for (kind, packet) in parts {
        stand.send(&[&HOST[..], &GUEST, kind, packet].concat());
        stand.settle();
    }
    let reasons = ["source-ip", "neighbour", "dhcp", "router", "evasive"];
    stand.expect_dropped(&reasons.map(|reason| (reason, 1)));
}

#[test]
fn frame_from_another_mac_is_sent_where_that_is_allowed() {
    let mut stand = Stand::new("unguarded", &[], SHAPE);
    let any = frame(HOST, STRANGER, 1, 100);
    stand.send(&any);
    assert_eq!(stand.host_sees(PATIENCE).unwrap(), any);
    stand.expect_dropped(&[]);
}
