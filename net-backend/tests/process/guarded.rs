// SPDX-License-Identifier: Apache-2.0
//! What a guest may not send does not reach the host.

use std::time::{Duration, Instant};

use crate::harness::{GUEST, HOST, Harness, MOMENT, PATIENCE, SHAPE, frame};

const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];

#[test]
fn frame_from_another_mac_is_used_and_not_sent() {
    let arguments = ["--mac", "02:00:00:00:00:01", "--guard", "mac,services"];
    let mut harness = Harness::new("spoofed", &arguments, SHAPE);
    harness.send(&frame(HOST, STRANGER, 1, 100));
    harness.settle();
    assert_eq!(harness.host_sees(MOMENT), None);
    let good = frame(HOST, GUEST, 2, 100);
    harness.send(&good);
    assert_eq!(harness.host_sees(PATIENCE).unwrap(), good);
    harness.expect_dropped(&[("source-mac", 1)]);
}

#[test]
fn what_the_guard_refuses_is_counted_by_its_reason() {
    let guard = "mac,services,ip=10.0.0.5";
    let arguments = ["--mac", "02:00:00:00:00:01", "--guard", guard];
    let mut harness = Harness::new("reasons", &arguments, SHAPE);
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
        harness.send(&[&HOST[..], &GUEST, kind, packet].concat());
        harness.settle();
    }
    let reasons = ["source-ip", "neighbour", "dhcp", "router", "evasive"];
    harness.expect_dropped(&reasons.map(|reason| (reason, 1)));
}

/// UDP from 10.0.0.5, port 1234, to another one.
fn datagram(port: u16, payload: [u8; 2]) -> Vec<u8> {
    let header = [0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 5];
    let ports = [1234, port].map(u16::to_be_bytes).concat();
    let rest = [&[255; 4][..], &ports, &[0, 10, 0, 0], &payload].concat();
    [&HOST[..], &GUEST, &[8, 0], &header, &rest].concat()
}

/// A virtio header that asks for a checksum from byte `start` on, at `offset` from there.
fn needs_checksum(start: u8, offset: u8) -> [u8; 12] {
    [1, 0, 0, 0, 0, 0, start, 0, offset, 0, 0, 0]
}

fn host_gets(harness: &Harness, expected: &[u8], patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        if harness.host.receive(left).unwrap().as_deref() == Some(expected) {
            return true;
        }
    }
    false
}

#[test]
fn checksum_that_would_become_a_port_is_refused_and_one_in_its_place_is_not() {
    let arguments = ["--mac", "02:00:00:00:00:01", "--guard", "mac,services"];
    let mut harness = Harness::new("checksum", &arguments, SHAPE);
    // The sum from the ports on is made to come out as 68: a DHCP client's.
    let sum = 1234 + 9999 + 10;
    let hidden = datagram(9999, u16::to_be_bytes(!68 - sum));
    harness.send_with(needs_checksum(34, 2), &hidden);
    harness.settle();
    assert!(!host_gets(&harness, &hidden, MOMENT));
    harness.expect_dropped(&[("checksum", 1)]);
    let sent = datagram(9999, [1, 2]);
    // With flags that are not defined yet, which are not handed on.
    let mut header = needs_checksum(34, 6);
    header[0] |= 0xf8;
    harness.send_with(header, &sent);
    assert!(host_gets(&harness, &sent, PATIENCE));
    harness.expect_dropped(&[("checksum", 1)]);
}

#[test]
fn frame_for_switches_is_refused_and_counted() {
    let arguments = ["--mac", "02:00:00:00:00:01", "--guard", "services"];
    let mut harness = Harness::new("switches", &arguments, SHAPE);
    let tree = [&[1, 0x80, 0xc2, 0, 0, 0][..], &GUEST, &[0, 38], &[0x42; 38]].concat();
    harness.send(&tree);
    harness.settle();
    assert!(!host_gets(&harness, &tree, MOMENT));
    harness.expect_dropped(&[("link-control", 1)]);
}

#[test]
fn long_neighbour_discovery_is_refused() {
    let arguments = [
        "--mac",
        "02:00:00:00:00:01",
        "--guard",
        "mac",
        "--mtu",
        "9000",
    ];
    let mut harness = Harness::new("discovery", &arguments, SHAPE);
    harness.interface.set_mtu(9000).unwrap();
    // An option that is not known, of 2040 bytes, and behind it the address of another.
    let mut message = vec![136, 0, 0, 0, 0, 0, 0, 0];
    message.extend([0xfe; 16]);
    message.extend([200, 255]);
    message.resize(24 + 2040, 0);
    message.extend([&[2, 1][..], &STRANGER].concat());
    let [high, low] = u16::try_from(message.len()).unwrap().to_be_bytes();
    let header = [&[0x60, 0, 0, 0, high, low, 58, 255][..], &[0xfe; 32]].concat();
    let sent = [&HOST[..], &GUEST, &[0x86, 0xdd], &header, &message].concat();
    harness.send(&sent);
    harness.settle();
    assert!(!host_gets(&harness, &sent, MOMENT));
    harness.expect_dropped(&[("evasive", 1)]);
}

#[test]
fn frame_from_another_mac_is_sent_where_that_is_allowed() {
    let mut harness = Harness::new("unguarded", &[], SHAPE);
    let any = frame(HOST, STRANGER, 1, 100);
    harness.send(&any);
    assert_eq!(harness.host_sees(PATIENCE).unwrap(), any);
    harness.expect_dropped(&[]);
}
