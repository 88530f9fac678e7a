// SPDX-License-Identifier: Apache-2.0
//! A vmm that writes to what it shares with a disk's backend while requests run.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use device_backend::shared_mem::SharedMem;
use ipc::health::BROKEN;
use loadgen::disk::{Kind, Request};

use crate::harness::{PATIENCE, SHAPE, Shape};
use crate::supervised::Harness;

/// The entries of the available ring.
const ENTRIES: u16 = 128;

/// Ends the thread that writes, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Posts one head as often as the ring has room, while another thread writes `byte` over its entry in the
/// in-flight region, again and again: the backend stops the queue, and serves the other one.
fn posts_a_head_twice_under(name: &str, byte: u8, threads: bool) {
    let mut harness = Harness::new(name, Shape { queues: 2, ..SHAPE }, false);
    harness.slot.threads = threads;
    let (mut generation, _connection) = harness.bring_up(false);
    let len_bytes = ipc::inflight::queue_bytes(ENTRIES);
    let region = SharedMem::of_file(harness.slot.inflight(), len_bytes).unwrap();
    let done = AtomicBool::new(false);
    let write = |slot: u32| Request {
        kind: Kind::Write,
        sector: u64::from(slot) * 128,
        len_bytes: 65536,
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for at in 16..32 {
                    region.at::<AtomicU8>(at).store(byte, Ordering::Relaxed);
                }
            }
        });
        let _stop = Stop(&done);
        let queue = &mut harness.queues[0];
        queue.prepare(&harness.memory, 0, write(0));
        for _ in 1..ENTRIES {
            queue.ring.offer(0);
        }
        queue.ring.show();
        queue.fds.kick.write(1).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while queue.fds.error.read().is_err() {
            assert_eq!(generation.ended().unwrap(), None, "the backend has died");
            assert!(Instant::now() < deadline, "nothing was reported");
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let other = &mut harness.queues[1];
    other.prepare(&harness.memory, 0, write(9));
    other.show().unwrap();
    assert!(other.wait(Duration::ZERO, PATIENCE));
    assert_eq!(other.reap().unwrap().unwrap().status, 0);
    let flags = &generation.health.queues[0].flags;
    assert_eq!(flags.load(Ordering::Relaxed), BROKEN);
}

#[test]
fn head_posted_twice_while_the_vmm_clears_the_in_flight_region_breaks_its_queue_on_uring() {
    posts_a_head_twice_under("cleared-uring", 0, false);
}

#[test]
fn head_posted_twice_while_the_vmm_clears_the_in_flight_region_breaks_its_queue_on_threads() {
    posts_a_head_twice_under("cleared-threads", 0, true);
}

#[test]
fn head_posted_twice_while_the_vmm_fills_the_in_flight_region_breaks_its_queue() {
    posts_a_head_twice_under("filled", 0xff, false);
}
