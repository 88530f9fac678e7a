// SPDX-License-Identifier: Apache-2.0
//! What the driver asks for on its control queue.

use crate::harness::{
    FEATURES, GUEST, HOST, Harness, MOMENT, MQ, MRG_RXBUF, PATIENCE, SHAPE, Shape, frame,
};

const OK: u8 = 0;
const ERR: u8 = 1;
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn with_mac(name: &str) -> Harness {
    Harness::new(name, &["--mac", "02:00:00:00:00:01"], SHAPE)
}

#[test]
fn frames_for_others_come_only_in_promiscuous_mode() {
    let mut harness = with_mac("promiscuous");
    let (own, other) = (frame(GUEST, HOST, 1, 60), frame(STRANGER, HOST, 2, 60));
    harness.host.send(&other).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, other);
    assert_eq!(harness.command(&[0, 0, 0]), OK);
    let before = harness.dropped("unwanted");
    harness.host.send(&other).unwrap();
    harness.host.send(&own).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, own);
    // The host's own network may have said something, too.
    assert!(harness.dropped("unwanted") > before);
    let table = [1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0];
    assert_eq!(harness.command(&table), OK);
    harness.host.send(&other).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, other);
}

#[test]
fn address_that_was_changed_is_the_one_that_counts() {
    let mut harness = with_mac("address");
    assert_eq!(harness.command(&[0, 0, 0]), OK);
    assert_eq!(harness.command(&[1, 1, 2, 0, 0, 0, 0, 9]), OK);
    harness.host.send(&frame(GUEST, HOST, 1, 60)).unwrap();
    let new = frame(STRANGER, HOST, 2, 60);
    harness.host.send(&new).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, new);
}

#[test]
fn vlans_come_when_they_were_added() {
    let mut harness = with_mac("vlan");
    // Promiscuous mode, in which a new driver is, goes before.
    assert_eq!(harness.command(&[0, 0, 0]), OK);
    let mut tagged = frame(GUEST, HOST, 1, 60);
    tagged.splice(12..14, [0x81, 0, 0, 7]);
    harness.host.send(&tagged).unwrap();
    assert_eq!(harness.guest_gets(0, MOMENT), None);
    assert_eq!(harness.command(&[2, 0, 7, 0]), OK);
    harness.host.send(&tagged).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, tagged);
    assert_eq!(harness.command(&[2, 1, 7, 0]), OK);
    harness.host.send(&tagged).unwrap();
    assert_eq!(harness.guest_gets(0, MOMENT), None);
    assert_eq!(harness.command(&[0, 0, 1]), OK);
    harness.host.send(&tagged).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, tagged);
}

#[test]
fn tables_of_very_many_addresses_open_the_filter() {
    let mut harness = with_mac("many");
    assert_eq!(harness.command(&[0, 0, 0]), OK);
    let group = [3, 0, 0, 0, 0, 9];
    let sent = frame(group, HOST, 1, 60);
    harness.host.send(&sent).unwrap();
    assert_eq!(harness.guest_gets(0, MOMENT), None);
    let mut tables = vec![1, 0, 0, 0, 0, 0];
    tables.extend(5000_u32.to_le_bytes());
    tables.resize(10 + 5000 * 6, 1);
    assert_eq!(harness.command(&tables), OK);
    harness.host.send(&sent).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, sent);
    // Of the unicast addresses there were none too many.
    harness.host.send(&frame(STRANGER, HOST, 2, 60)).unwrap();
    assert_eq!(harness.guest_gets(0, MOMENT), None);
    harness.expect_dropped(&[]);
}

#[test]
fn offloads_can_be_switched_under_traffic() {
    let mut harness = with_mac("offloads");
    for round in 0..50_u32 {
        let offloads = if round % 2 == 0 { 0 } else { 0x82_u64 };
        let command = [&[5, 0], &offloads.to_le_bytes()[..]].concat();
        assert_eq!(harness.command(&command), OK);
        let sent = frame(GUEST, HOST, round, 100);
        harness.host.send(&sent).unwrap();
        assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, sent);
    }
    let unknown = [&[5, 0], &(1_u64 << 55).to_le_bytes()[..]].concat();
    assert_eq!(harness.command(&unknown), ERR);
}

#[test]
fn commands_that_make_no_sense_are_answered_and_harmless() {
    let mut harness = with_mac("nonsense");
    let commands: [&[u8]; 8] = [
        &[0],
        &[0, 9, 1],
        &[1, 0, 255, 255, 255, 255],
        &[1, 1, 1, 0, 0, 0, 0, 0],
        &[2, 0, 255, 255],
        &[4, 0, 0, 0],
        &[4, 0, 9, 0],
        &[77, 1, 2, 3],
    ];
    for command in commands {
        assert_eq!(harness.command(command), ERR, "{command:?}");
    }
    harness.expect_dropped(&[("command", 8)]);
    assert_eq!(harness.command(&vec![0; 8000]), OK);
    let sent = frame(GUEST, HOST, 1, 100);
    harness.host.send(&sent).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, sent);
}

#[test]
fn address_that_is_guarded_cannot_be_changed() {
    let arguments = ["--mac", "02:00:00:00:00:01", "--guard", "mac"];
    let mut harness = Harness::new("guarded-address", &arguments, SHAPE);
    assert_eq!(harness.command(&[1, 1, 2, 0, 0, 0, 0, 9]), ERR);
    assert_eq!(harness.command(&[1, 1, 2, 0, 0, 0, 0, 1]), OK);
    harness.expect_dropped(&[("refused", 1)]);
}

/// Which pair each of many flows comes on: how many of them on each.
fn spread(harness: &mut Harness, pairs: usize) -> Vec<u32> {
    let mut counts = vec![0; pairs];
    for flow in 0..64 {
        // The kernel tells flows apart by their IP addresses and ports.
        let mut packet = frame(GUEST, HOST, 0, 60);
        packet[12..14].copy_from_slice(&[8, 0]);
        let header = [
            0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, flow, 10, 0, 1, 1,
        ];
        packet[14..34].copy_from_slice(&header);
        harness.host.send(&packet).unwrap();
    }
    for (pair, count) in counts.iter_mut().enumerate() {
        while harness.guest_gets(pair, MOMENT).is_some() {
            *count += 1;
        }
    }
    counts
}

#[test]
fn pairs_are_used_as_the_driver_says() {
    let shape = Shape {
        pairs: 4,
        features: FEATURES | MRG_RXBUF | MQ,
        ..SHAPE
    };
    let mut harness = Harness::new("pairs", &[], shape);
    // A new driver has one pair, and says so before it counts on it.
    assert_eq!(harness.command(&[4, 0, 1, 0]), OK);
    let counts = spread(&mut harness, 4);
    assert_eq!(counts, [64, 0, 0, 0]);
    assert_eq!(harness.command(&[4, 0, 4, 0]), OK);
    let counts = spread(&mut harness, 4);
    assert_eq!(counts.iter().sum::<u32>(), 64);
    assert!(
        counts.iter().filter(|count| **count > 0).count() > 1,
        "{counts:?}"
    );
    assert_eq!(harness.command(&[4, 0, 1, 0]), OK);
    assert_eq!(spread(&mut harness, 4), [64, 0, 0, 0]);
    let (status, log) = harness.end();
    assert!(status.success(), "{log}");
}

#[test]
fn control_queue_of_a_driver_without_pairs_is_the_third() {
    // Two pairs are offered, the driver knows of one: its control queue has the number of a queue
    // of the second pair.
    let arguments = ["--queues", "2"];
    let mut harness = Harness::new("third", &arguments, SHAPE);
    assert_eq!(harness.command(&[0, 0, 1]), OK);
    let sent = frame(STRANGER, HOST, 1, 100);
    harness.host.send(&sent).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, sent);
}
