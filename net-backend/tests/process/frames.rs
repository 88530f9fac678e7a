// SPDX-License-Identifier: Apache-2.0
//! Frames go through unchanged and in order, both ways, whatever the shape of the queues.

use crate::harness::{
    EVENT_IDX, FEATURES, GUEST, HOST, Harness, MOMENT, PATIENCE, SHAPE, Shape, frame,
};

/// Sends frames of many lengths to the host, more than the queue holds.
fn to_the_host(harness: &mut Harness, count: u32) {
    for number in 0..count {
        let sent = frame(HOST, GUEST, number, 60 + (number as usize * 37) % 1400);
        harness.send(&sent);
        assert_eq!(harness.host_sees(PATIENCE).unwrap(), sent, "frame {number}");
    }
    harness.settle();
}

fn to_the_guest(harness: &mut Harness, count: u32) {
    for number in 0..count {
        let sent = frame(GUEST, HOST, number, 60 + (number as usize * 41) % 1400);
        harness.host.send(&sent).unwrap();
        let (header, got) = harness.guest_gets(0, PATIENCE).unwrap();
        assert_eq!(got, sent, "frame {number}");
        assert_eq!(header[10..], [1, 0], "num_buffers");
    }
}

fn both_ways(name: &str, shape: Shape) {
    let mut harness = Harness::new(name, &[], shape);
    to_the_host(&mut harness, 200);
    to_the_guest(&mut harness, 200);
    let (status, log) = harness.end();
    assert!(status.success(), "{log}");
}

#[test]
fn frames_go_through_both_ways() {
    both_ways("plain", SHAPE);
}

#[test]
fn frames_go_through_without_event_idx_or_mergeable_buffers() {
    let features = FEATURES & !EVENT_IDX;
    both_ways("simple", Shape { features, ..SHAPE });
}

#[test]
fn frames_go_through_while_the_indices_wrap() {
    both_ways(
        "wrap",
        Shape {
            start: 0xffe0,
            ..SHAPE
        },
    );
}

#[test]
fn frames_go_through_without_polling() {
    let mut harness = Harness::new("sleepy", &["--poll-us", "0"], SHAPE);
    to_the_host(&mut harness, 100);
    to_the_guest(&mut harness, 100);
}

#[test]
fn frame_longer_than_a_buffer_takes_several() {
    let shape = Shape {
        buffer_bytes: 256,
        ..SHAPE
    };
    let mut harness = Harness::new("merged", &["--mtu", "9000"], shape);
    harness.interface.set_mtu(9000).unwrap();
    // After long ones, and after so many short ones that long ones are not expected.
    for round in 0..3 {
        for number in 0..300 {
            let sent = frame(GUEST, HOST, number, 60);
            harness.host.send(&sent).unwrap();
            assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, sent);
        }
        for len in [244, 245, 2000, 9014] {
            let sent = frame(GUEST, HOST, round, len);
            harness.host.send(&sent).unwrap();
            let (header, got) = harness.guest_gets(0, PATIENCE).unwrap();
            assert_eq!(got, sent, "{len} bytes");
            let buffers = u16::from_le_bytes([header[10], header[11]]);
            assert_eq!(usize::from(buffers), (len + 12).div_ceil(256));
        }
    }
}

#[test]
fn frame_that_no_buffers_have_room_for_is_dropped_and_the_next_is_not() {
    let shape = Shape {
        buffer_bytes: 128,
        size: 8,
        ..SHAPE
    };
    let mut harness = Harness::new("too-long", &[], shape);
    harness.host.send(&frame(GUEST, HOST, 1, 1400)).unwrap();
    let good = frame(GUEST, HOST, 2, 900);
    harness.host.send(&good).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, good);
}

#[test]
fn frames_wait_while_the_guest_has_no_buffers_and_then_all_come() {
    let shape = Shape { size: 4, ..SHAPE };
    let mut harness = Harness::new("starved", &[], shape);
    let sent: Vec<_> = (0..40).map(|n| frame(GUEST, HOST, n, 100)).collect();
    for frame in &sent {
        harness.host.send(frame).unwrap();
    }
    std::thread::sleep(MOMENT);
    for frame in &sent {
        assert_eq!(&harness.guest_gets(0, PATIENCE).unwrap().1, frame);
    }
}

#[test]
fn frame_held_for_more_buffers_comes_when_there_are_some() {
    let shape = Shape {
        size: 8,
        buffer_bytes: 256,
        ..SHAPE
    };
    let mut harness = Harness::new("held", &[], shape);
    // Six buffers are taken, two are left, and the frame needs four.
    for number in 0..6 {
        harness.host.send(&frame(GUEST, HOST, number, 100)).unwrap();
    }
    let long = frame(GUEST, HOST, 6, 900);
    harness.host.send(&long).unwrap();
    std::thread::sleep(MOMENT);
    for number in 0..6 {
        let got = harness.guest_gets(0, PATIENCE).unwrap().1;
        assert_eq!(got, frame(GUEST, HOST, number, 100));
    }
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, long);
}

#[test]
fn ring_stopped_and_started_goes_on_where_it_was() {
    let mut harness = Harness::new("stopped", &[], SHAPE);
    to_the_host(&mut harness, 10);
    to_the_guest(&mut harness, 10);
    let connection = harness.connection.as_mut().unwrap();
    // Nothing is between taken and used: what comes next is what was used last.
    for (index, used) in [
        (0, harness.receive[0].ring.used_idx()),
        (1, harness.transmit[0].ring.used_idx()),
    ] {
        assert_eq!(connection.stop_ring(index).unwrap(), used);
    }
    let places = crate::harness::places(&harness.receive, &harness.transmit, &harness.control);
    connection.stop_ring(2).unwrap();
    connection
        .start(SHAPE.features, &harness.memory, &places)
        .unwrap();
    to_the_host(&mut harness, 10);
    to_the_guest(&mut harness, 10);
}

#[test]
fn tap_that_is_down_takes_nothing_and_later_everything() {
    let mut harness = Harness::new("down", &[], SHAPE);
    harness.interface.set_up(false).unwrap();
    harness.send(&frame(HOST, GUEST, 1, 100));
    harness.settle();
    harness.interface.set_up(true).unwrap();
    harness.host = harness.interface.packets(false).unwrap();
    to_the_host(&mut harness, 3);
    to_the_guest(&mut harness, 3);
}
