// SPDX-License-Identifier: Apache-2.0
//! What a guest must not do costs it the frame or the queue, and nothing else.

use std::time::{Duration, Instant};

use loadgen::ring::{Descriptor, INDIRECT, NEXT, WRITE};
use vm_memory::GuestAddress;

use crate::harness::{GUEST, HOST, Harness, MOMENT, PATIENCE, SHAPE, frame};

fn still_works(harness: &mut Harness) {
    let good = frame(HOST, GUEST, 77, 100);
    harness.send(&good);
    assert_eq!(harness.host_sees(PATIENCE).unwrap(), good);
}

#[test]
fn headers_that_make_no_sense_cost_the_frame() {
    let mut harness = Harness::new("headers", &[], SHAPE);
    let headers: [[u8; 12]; 7] = [
        // A checksum behind the end; segments of nothing, of a kind that is unknown or was not
        // negotiated, of no length, and without a checksum.
        [1, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 9, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0],
        [1, 4, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0],
        [1, 1, 54, 0, 0, 0, 34, 0, 16, 0, 0, 0],
        [0, 1, 54, 0, 100, 0, 34, 0, 16, 0, 0, 0],
        // Only the kernel looks at this one: a header longer than the frame.
        [1, 1, 255, 255, 100, 0, 34, 0, 16, 0, 0, 0],
    ];
    for header in headers {
        harness.send_with(header, &frame(HOST, GUEST, 1, 100));
        harness.settle();
    }
    assert_eq!(harness.host_sees(MOMENT), None);
    harness.expect_dropped(&[("header", 7)]);
    still_works(&mut harness);
}

#[test]
fn frames_too_short_too_long_or_from_nowhere_cost_the_frame() {
    let mut harness = Harness::new("lengths", &[], SHAPE);
    for len in [0, 1, 11] {
        let queue = &mut harness.transmit[0];
        queue.reap().unwrap();
        assert!(queue.offer(&vec![0; len]));
        queue.show();
        harness.settle();
    }
    harness.send(&[1; 13]);
    harness.settle();
    for (address, len_bytes) in [(0x1000, 80_000), (u64::MAX - 8, 100), (1 << 40, 100)] {
        let queue = &mut harness.transmit[0];
        let slot = queue.ring.options().size - 1;
        queue
            .ring
            .describe(slot, descriptor(address, len_bytes, 0, 0));
        queue.ring.offer(slot);
        queue.show();
        let deadline = Instant::now() + PATIENCE;
        while queue.ring.reap().unwrap().is_none() {
            assert!(Instant::now() < deadline, "not used");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    assert_eq!(harness.host_sees(MOMENT), None);
    harness.expect_dropped(&[("frame", 7)]);
    still_works(&mut harness);
}

fn descriptor(address: u64, len_bytes: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        address: GuestAddress(address),
        len_bytes,
        flags,
        next,
    }
}

/// Lets the driver break its transmit queue, which is reported and leaves the other one alone.
fn breaks_the_queue(name: &str, logged: &str, fault: impl FnOnce(&mut Harness)) {
    let mut harness = Harness::new(name, &[], SHAPE);
    still_works(&mut harness);
    harness.settle();
    fault(&mut harness);
    harness.transmit[0].fds.kick.write(1).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while harness.transmit[0].fds.error.read().is_err() {
        assert!(Instant::now() < deadline, "nothing was reported");
        std::thread::sleep(Duration::from_millis(1));
    }
    let good = frame(GUEST, HOST, 1, 100);
    harness.host.send(&good).unwrap();
    assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, good);
    let (status, log) = harness.end();
    assert!(status.success(), "{log}");
    assert!(log.contains(logged), "{log}");
}

fn offer(harness: &mut Harness, chain: &[Descriptor]) {
    let ring = &mut harness.transmit[0].ring;
    for (index, descriptor) in (0..).zip(chain) {
        ring.describe(index, *descriptor);
    }
    ring.offer(0);
    ring.show();
}

#[test]
fn chain_that_loops_breaks_its_queue() {
    breaks_the_queue("loop", "longer than the queue", |harness| {
        offer(harness, &[descriptor(0x1000, 16, NEXT, 0)]);
    });
}

#[test]
fn chain_that_leaves_the_table_breaks_its_queue() {
    breaks_the_queue("leaves", "outside the table", |harness| {
        offer(harness, &[descriptor(0x1000, 16, NEXT, 64)]);
    });
}

#[test]
fn chain_with_a_table_of_no_length_breaks_its_queue() {
    breaks_the_queue("table", "cannot have 0 bytes", |harness| {
        offer(harness, &[descriptor(0x1000, 0, INDIRECT, 0)]);
    });
}

#[test]
fn head_outside_the_table_breaks_its_queue() {
    breaks_the_queue("head", "outside the descriptor table", |harness| {
        harness.transmit[0].ring.offer(500);
        harness.transmit[0].ring.show();
    });
}

#[test]
fn available_index_that_jumps_breaks_its_queue() {
    breaks_the_queue("jump", "ahead", |harness| {
        let [_, avail, _] = harness.transmit[0].ring.addresses();
        let bytes = harness.transmit[0].ring.used_idx().wrapping_add(1000);
        harness
            .memory
            .write(&bytes.to_le_bytes(), GuestAddress(avail.0 + 2));
    });
}

#[test]
fn receive_buffer_that_cannot_be_written_breaks_its_queue_alone() {
    for (name, flags, address) in [("readable", 0, 0x1000), ("nowhere", WRITE, 1 << 40)] {
        let mut harness = Harness::new(name, &[], SHAPE);
        let good = frame(GUEST, HOST, 1, 100);
        harness.host.send(&good).unwrap();
        assert_eq!(harness.guest_gets(0, PATIENCE).unwrap().1, good);
        let queue = &mut harness.receive[0];
        for slot in 0..queue.ring.options().size {
            queue
                .ring
                .describe(slot, descriptor(address, 2048, flags, 0));
        }
        // What was taken before is still good; those behind it are not.
        for number in 0..80 {
            harness.host.send(&frame(GUEST, HOST, number, 100)).unwrap();
            let queue = &mut harness.receive[0];
            let _ = queue.recycle();
            queue.show();
            std::thread::sleep(Duration::from_millis(1));
        }
        let deadline = Instant::now() + PATIENCE;
        while harness.receive[0].fds.error.read().is_err() {
            assert!(Instant::now() < deadline, "nothing was reported");
            std::thread::sleep(Duration::from_millis(1));
        }
        still_works(&mut harness);
        let (status, log) = harness.end();
        assert!(status.success(), "{log}");
    }
}
