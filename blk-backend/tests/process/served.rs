// SPDX-License-Identifier: Apache-2.0
//! What is written is there, whatever the engine and the shape of the queue.

use std::sync::Arc;
use std::time::Duration;

use loadgen::exercise::{self, Known};
use loadgen::verify::{self, Log, Verify, check_image};

use crate::harness::{Backend, Dir, SHAPE, Shape, places};

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
