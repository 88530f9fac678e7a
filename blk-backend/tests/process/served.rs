// SPDX-License-Identifier: Apache-2.0
//! What is written is there, whatever the engine and the shape of the queue.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use loadgen::disk::{Kind, Queue, QueueOptions, Request};
use loadgen::exercise::{self, Known};
use loadgen::memory::Memory;
use loadgen::ring::{Descriptor, NEXT, RingOptions, WRITE};
use loadgen::verify::{self, Log, Verify, check_image};
use vm_memory::GuestAddress;

use crate::stand::{Backend, Dir, FEATURES, PATIENCE, SHAPE, Shape, places};

const IMAGE_BYTES: u64 = 32 << 20;

/// Writes and reads for a second, then checks the image against what was acknowledged.
fn verify(name: &str, options: &str, shape: Shape) {
    let dir = Dir::new(name);
    let image = dir.image(IMAGE_BYTES);
    let mut backend = Backend::start(&dir, &format!("path={}{options}", image.display()));
    let mut connection = backend.connect();
    let (memory, mut queues) = shape.queues();
    connection
        .start(shape.features(), &memory, &places(&queues))
        .unwrap();
    let log = Log::create(&dir.path("log")).unwrap();
    let plan = Verify {
        block_bytes: 4096,
        depth: shape.depth,
        duration: Duration::from_secs(1),
        requests: 1500,
        blocks: IMAGE_BYTES / 4096 / 8,
        seed: 1,
        patience: verify::PATIENCE,
        stop: Arc::default(),
        gaps: None,
    };
    let outcome = verify::run(&memory, &mut queues, &plan, &log).unwrap();
    log.finish().unwrap();
    drop(connection);
    let (status, output) = backend.end();
    assert!(status.success(), "{output}");
    assert_eq!((outcome.errors, outcome.mismatches), (0, vec![]));
    assert!(outcome.writes > 100 && outcome.reads > 50 && outcome.flushes > 5);
    let (checked, mismatches) = check_image(&dir.path("log"), &image, 4096).unwrap();
    assert!(checked > 50);
    assert_eq!(mismatches, []);
}

#[test]
fn disk_on_uring_keeps_what_is_written() {
    verify("uring", "", SHAPE);
}

#[test]
fn disk_on_uring_direct_keeps_what_is_written() {
    verify("uring-direct", ",direct,poll-us=0", SHAPE);
}

#[test]
fn disk_on_threads_keeps_what_is_written() {
    verify("threads", ",engine=threads", SHAPE);
}

#[test]
fn disk_on_threads_direct_keeps_what_is_written() {
    verify("threads-direct", ",engine=threads,direct,poll-us=0", SHAPE);
}

#[test]
fn disk_with_four_queues_keeps_what_is_written() {
    verify("queues", ",queues=4", Shape { queues: 4, ..SHAPE });
}

#[test]
fn disk_without_event_idx_or_indirect_descriptors_keeps_what_is_written() {
    let shape = Shape {
        event_idx: false,
        indirect: false,
        segments: 2,
        ..SHAPE
    };
    verify("plain", "", shape);
}

#[test]
fn disk_whose_requests_are_cut_into_pieces_keeps_what_is_written() {
    verify(
        "pieces",
        ",direct",
        Shape {
            segments: 8,
            ..SHAPE
        },
    );
}

#[test]
fn disk_whose_indices_wrap_keeps_what_is_written() {
    verify(
        "wrap",
        "",
        Shape {
            start: 0xfff0,
            ..SHAPE
        },
    );
}

/// A small guest can ask for as much as it likes, because its buffers may be the same memory.
#[test]
fn requests_that_have_to_be_copied_take_little_memory_however_many_there_are() {
    const LEN_BYTES: u32 = 8 << 20;
    const MOST_KIB: u64 = 64 << 10;
    let dir = Dir::new("copied");
    let image = dir.image(IMAGE_BYTES);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0x5a; 4096], 0).unwrap();
    let backend = Backend::start(&dir, &format!("path={},direct", image.display()));
    let mut connection = backend.connect();
    let mut memory = Memory::new(16 << 20).unwrap();
    let ring = RingOptions {
        size: 128,
        event_idx: true,
        start: 0,
    };
    let options = QueueOptions {
        ring,
        depth: 32,
        buffer_bytes: 4096,
        segments: 1,
        indirect: false,
    };
    let mut queue = Queue::new(&mut memory, options).unwrap();
    let shared = memory.take(u64::from(LEN_BYTES) + 4096).unwrap();
    // Aligned for nothing.
    let address = GuestAddress(shared.0 + 1);
    let place = [queue.place()];
    connection.start(FEATURES, &memory, &place).unwrap();
    for slot in 0..options.depth {
        let request = Request {
            kind: Kind::Read,
            sector: 0,
            len_bytes: 512,
        };
        queue.prepare(&memory, slot, request);
        let head = queue.head(slot);
        let data = Descriptor {
            address,
            len_bytes: LEN_BYTES,
            flags: NEXT | WRITE,
            next: head + 2,
        };
        queue.ring.describe(head + 1, data);
    }
    queue.show().unwrap();
    for _ in 0..options.depth {
        assert!(queue.wait(Duration::ZERO, PATIENCE), "no answer");
        let done = queue.reap().unwrap().unwrap();
        assert_eq!((done.status, done.written_bytes), (0, LEN_BYTES + 1));
    }
    let mut read = [0; 4097];
    memory.read(&mut read, address);
    assert_eq!((read[0], read[4095], read[4096]), (0x5a, 0x5a, 0));
    let peak_kib = backend.peak_kib();
    assert!(peak_kib < MOST_KIB, "{peak_kib} KiB");
}

/// Every kind of request; the serial number that came of it.
fn exercise(name: &str, options: &str, readonly: bool) -> String {
    let dir = Dir::new(name);
    let image = dir.image(IMAGE_BYTES);
    let backend = Backend::start(&dir, &format!("path={}{options}", image.display()));
    let mut connection = backend.connect();
    let config = connection.config().unwrap();
    assert_eq!(config.capacity_bytes, IMAGE_BYTES);
    let (memory, mut queues) = SHAPE.queues();
    let features = connection.offered() & SHAPE.features();
    connection
        .start(features, &memory, &places(&queues))
        .unwrap();
    let known = Known {
        capacity_bytes: IMAGE_BYTES,
        block_bytes: config.block_bytes,
        discard: !readonly,
        write_zeroes: !readonly,
        readonly,
    };
    exercise::run(&memory, &mut queues[0], known).unwrap().0
}

#[test]
fn disk_on_uring_does_every_kind_of_request() {
    assert_eq!(exercise("ex-uring", ",serial=abc", false), "abc");
    exercise("ex-uring-direct", ",direct", false);
}

#[test]
fn disk_on_threads_does_every_kind_of_request() {
    assert_eq!(
        exercise("ex-threads", ",engine=threads,serial=abc", false),
        "abc"
    );
    exercise("ex-threads-direct", ",engine=threads,direct", false);
}

#[test]
fn disk_read_only_refuses_writes_and_does_the_rest() {
    exercise("ex-readonly", ",readonly", true);
    exercise("ex-readonly-threads", ",readonly,engine=threads", true);
}
