// SPDX-License-Identifier: Apache-2.0
//! The backend dies under load, again and again, and the driver sees nothing but pauses.

use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use device_backend::shared_mem::SharedMem;
use ipc::control::{FromBackend, ToBackend};
use ipc::health::BROKEN;
use loadgen::disk::{Kind, Request};
use loadgen::supervised::Generation;
use loadgen::verify::{self, Log, Verify, check_image};
use nix::sys::socket::{Shutdown, shutdown};

use crate::harness::{PATIENCE, SHAPE, Shape};
use crate::supervised::{Harness, IMAGE_BYTES, leave_in_flight};

/// Kills the backend every few milliseconds under a verified load.
fn kill_under_load(name: &str, threads: bool, direct: bool, shape: Shape) {
    let mut harness = Harness::new(name, shape, direct);
    harness.slot.threads = threads;
    let log = Log::create(&harness.dir.path("log")).unwrap();
    let plan = Verify {
        block_bytes: 4096,
        depth: shape.depth,
        duration: Duration::from_secs(3),
        requests: 500,
        blocks: IMAGE_BYTES / 4096 / 4,
        seed: 3,
        patience: verify::PATIENCE,
        stop: Arc::default(),
        gaps: None,
    };
    let mut queues = std::mem::take(&mut harness.queues);
    let (mut generation, mut connection) = harness.bring_up(false);
    let (mut kills, memory) = (0, &harness.memory);
    let outcome = std::thread::scope(|scope| {
        let load = scope.spawn(|| verify::run(memory, &mut queues, &plan, &log).unwrap());
        while !load.is_finished() {
            std::thread::sleep(Duration::from_millis(20 + 7 * (kills % 11)));
            generation
                .kill()
                .unwrap()
                .expect("the dead backend's I/O has ended");
            drop(std::mem::replace(&mut connection, {
                // It did not die of itself.
                let (next, connection) = harness.bring_up(false);
                generation = next;
                connection
            }));
            kills += 1;
        }
        load.join().unwrap()
    });
    log.finish().unwrap();
    // How many fit into the time depends on what else the machine does.
    assert!(kills >= 3, "{kills} kills");
    assert_eq!(
        (outcome.errors, outcome.mismatches),
        (0, vec![]),
        "{kills} kills"
    );
    let (checked, mismatches) = check_image(
        &harness.dir.path("log"),
        &harness.dir.path("disk.raw"),
        4096,
    )
    .unwrap();
    assert!(checked > 50);
    assert_eq!(mismatches, []);
}

#[test]
fn backend_on_uring_killed_under_load_loses_nothing() {
    kill_under_load("kill-uring", false, true, Shape { queues: 2, ..SHAPE });
}

#[test]
fn backend_on_uring_buffered_killed_under_load_loses_nothing() {
    kill_under_load(
        "kill-buffered",
        false,
        false,
        Shape {
            start: 0xfff0,
            ..SHAPE
        },
    );
}

#[test]
fn backend_on_threads_killed_under_load_loses_nothing() {
    kill_under_load("kill-threads", true, true, SHAPE);
}

#[test]
fn backend_launched_answers_pings_and_says_what_it_does() {
    let harness = Harness::new("ping", SHAPE, true);
    let (generation, _connection) = harness.bring_up(false);
    let health = &generation.health.queues[0];
    generation.control.send(&ToBackend::Ping(42)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while health.heartbeat.load(Ordering::Relaxed) != 42 {
        assert!(Instant::now() < deadline, "no answer to a ping");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(health.in_flight.load(Ordering::Relaxed), 0);
}

/// What the supervisor hears until the process has ended.
fn news(generation: &Generation) -> Vec<FromBackend> {
    let next = || generation.control.receive().unwrap();
    std::iter::from_fn(next).collect()
}

#[test]
fn backend_launched_says_that_it_serves_and_that_its_frontend_hung_up() {
    let harness = Harness::new("served", SHAPE, true);
    let (generation, connection) = harness.bring_up(false);
    drop(connection);
    assert_eq!(
        news(&generation),
        [FromBackend::Serving, FromBackend::Hangup]
    );
}

#[test]
fn backend_whose_frontend_says_nothing_does_not_say_that_it_serves() {
    let harness = Harness::new("unserved", SHAPE, true);
    let mut generation = harness.slot.start(false).unwrap();
    drop(UnixStream::connect(harness.dir.path("blk.sock")).unwrap());
    assert_eq!(news(&generation), [FromBackend::Hangup]);
    assert!(generation.wait().unwrap().success());
}

#[test]
fn backend_that_cannot_be_reached_says_so_and_ends() {
    let harness = Harness::new("unreached", SHAPE, true);
    let mut generation = harness.slot.start(false).unwrap();
    shutdown(harness.slot.listener().as_raw_fd(), Shutdown::Both).unwrap();
    let news = news(&generation);
    assert!(matches!(news[..], [FromBackend::Failed(_)]), "{news:?}");
    assert_eq!(generation.wait().unwrap().code(), Some(1));
}

#[test]
fn backend_launched_ends_with_its_supervisor() {
    let harness = Harness::new("orphan", SHAPE, true);
    let (mut generation, _connection) = harness.bring_up(false);
    let (ours, _) = ipc::control::Channel::pair().unwrap();
    generation.control = ours;
    assert!(generation.wait().unwrap().success());
}

#[test]
fn ring_stopped_drains_and_says_where_it_is() {
    let mut harness = Harness::new("drain", SHAPE, true);
    let (_generation, mut connection) = harness.bring_up(false);
    let plan = loadgen::load::Load {
        write_percent: 50,
        random: true,
        block_bytes: 4096,
        depth: 32,
        duration: Duration::from_millis(300),
        rate: None,
        span_bytes: IMAGE_BYTES,
        seed: 1,
        spin: Duration::ZERO,
    };
    let outcome = loadgen::load::run(&harness.memory, &mut harness.queues, &plan).unwrap();
    let base = connection.stop_ring(0).unwrap();
    assert_eq!(base, harness.places[0].used_idx());
    assert_eq!(u64::from(base), outcome.requests % 65536);
}

#[test]
fn request_present_at_three_deaths_fails_and_the_others_do_not() {
    let mut harness = Harness::new("poison", SHAPE, true);
    for slot in 0..5 {
        let request = Request {
            kind: Kind::Write,
            sector: u64::from(slot) * 8,
            len_bytes: 4096,
        };
        harness.queues[0].prepare(&harness.memory, slot, request);
    }
    harness.queues[0].show().unwrap();
    // The death of the one that is about to be replaced comes on top.
    leave_in_flight(&harness, &[(2, 0), (1, 2), (0, 1)]);
    let (_generation, _connection) = harness.bring_up(true);
    let mut answers = Vec::new();
    while answers.len() < 5 {
        assert!(harness.queues[0].wait(Duration::ZERO, PATIENCE));
        while let Some(done) = harness.queues[0].reap().unwrap() {
            answers.push((done.slot, done.status));
        }
    }
    answers.sort_unstable();
    assert_eq!(answers, [(0, 0), (1, 1), (2, 0), (3, 0), (4, 0)]);
}

#[test]
fn region_of_nonsense_stops_its_queue_and_not_the_process() {
    let harness = Harness::new("nonsense", Shape { queues: 2, ..SHAPE }, true);
    let region = SharedMem::of_file(harness.slot.inflight(), 64).unwrap();
    region.at::<AtomicU16>(8).store(77, Ordering::Relaxed);
    let (generation, _connection) = harness.bring_up(true);
    let deadline = Instant::now() + PATIENCE;
    while harness.places[0].fds.error.read().is_err() {
        assert!(Instant::now() < deadline, "nothing was reported");
        std::thread::sleep(Duration::from_millis(1));
    }
    let flags = |queue: usize| {
        generation.health.queues[queue]
            .flags
            .load(Ordering::Relaxed)
    };
    assert_eq!((flags(0), flags(1)), (BROKEN, 0));
}
