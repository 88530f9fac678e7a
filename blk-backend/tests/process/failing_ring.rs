// SPDX-License-Identifier: Apache-2.0
//! A kernel that refuses what a backend submits to its io_uring, for a while or for good.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ipc::control::ToBackend;
use ipc::health::Crash;
use loadgen::connection::Connection;
use loadgen::disk::{Kind, Request};
use loadgen::supervised::Generation;

use crate::harness::{PATIENCE, SHAPE};
use crate::supervised::Harness;

const REQUESTS: u16 = 5;

/// A disk whose driver waits for some writes.
fn harness_with_requests(name: &str) -> Harness {
    let mut harness = Harness::new(name, SHAPE, true);
    for slot in 0..REQUESTS {
        let request = Request {
            kind: Kind::Write,
            sector: u64::from(slot) * 8,
            len_bytes: 4096,
        };
        harness.queues[0].prepare(&harness.memory, slot, request);
    }
    harness.queues[0].show().unwrap();
    harness
}

/// The next generation completes them all.
fn all_complete(harness: &mut Harness) {
    harness.slot.enter_errno = None;
    let (_generation, _connection) = harness.bring_up(true);
    let mut answers = Vec::new();
    while answers.len() < usize::from(REQUESTS) {
        assert!(harness.queues[0].wait(Duration::ZERO, PATIENCE));
        while let Some(done) = harness.queues[0].reap().unwrap() {
            answers.push((done.slot, done.status));
        }
    }
    answers.sort_unstable();
    assert!((0..REQUESTS).eq(answers.iter().map(|(slot, _)| *slot)));
    assert!(answers.iter().all(|(_, status)| *status == 0));
}

/// Waits for its end; a process that turns in circles has none.
fn end_of(generation: &mut Generation) -> Option<i32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = generation.ended().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

#[test]
fn backend_whose_ring_fails_for_good_says_so_ends_and_loses_no_request() {
    let mut harness = harness_with_requests("for-good");
    // Oftener than a request may be present at a crash.
    for errno in [
        libc::EBADFD,
        libc::EOPNOTSUPP,
        libc::EINVAL,
        libc::ENXIO,
        libc::EBADF,
    ] {
        harness.slot.enter_errno = Some(errno.unsigned_abs());
        let mut generation = harness.slot.start(true).unwrap();
        let mut connection = Connection::open(&harness.dir.path("blk.sock"), PATIENCE).unwrap();
        // It may end before the frontend has said everything.
        let _ = connection.start(harness.shape.features(), &harness.memory, &harness.places);
        assert_eq!(end_of(&mut generation), Some(1), "errno {errno}");
        let crash = Crash::from_u32(generation.health.crash.load(Ordering::Relaxed));
        assert_eq!(crash, Crash::Engine(errno.unsigned_abs()));
    }
    all_complete(&mut harness);
}

/// The processor time that a process has used, in clock ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name = stat.rsplit_once(')').unwrap().1;
    let numbers = behind_name.split_whitespace().skip(11).take(2);
    numbers.map(|n| n.parse::<u64>().unwrap()).sum()
}

#[test]
fn backend_whose_ring_is_refused_for_now_waits_answers_pings_and_loses_no_request() {
    let mut harness = harness_with_requests("for-now");
    for errno in [libc::EAGAIN, libc::EBUSY] {
        harness.slot.enter_errno = Some(errno.unsigned_abs());
        let (mut generation, _connection) = harness.bring_up(true);
        std::thread::sleep(Duration::from_millis(300));
        let before = ticks(generation.pid());
        std::thread::sleep(Duration::from_secs(1));
        // One that turns in circles takes 100, or what other processes leave of that.
        let used = ticks(generation.pid()) - before;
        assert!(used < 10, "{used} ticks in a second");
        generation.control.send(&ToBackend::Ping(9)).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while generation.health.queues[0]
            .heartbeat
            .load(Ordering::Relaxed)
            != 9
        {
            assert!(Instant::now() < deadline, "no answer to a ping");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(generation.ended().unwrap(), None);
        generation.kill().unwrap().unwrap();
    }
    all_complete(&mut harness);
}
