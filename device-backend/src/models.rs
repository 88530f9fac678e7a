// SPDX-License-Identifier: Apache-2.0
//! The barrier in many orders of its threads: `start_barrier.rs` once more, with a library's locks in place of the
//! standard library's, which decides which thread runs next.
//!
//! Found when planted: a barrier that is opened without waking those who wait, a waiter that does not look
//! whether it came last, and a barrier that opens although the filter could not be installed.

use std::sync::Arc;

use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;

use start_barrier::{Participant, StartBarrier};

mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, Ordering};
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[allow(dead_code, unreachable_pub, missing_docs, clippy::duplicate_mod)] // not all of it is used here
#[path = "start_barrier.rs"]
mod start_barrier;

const WORKERS: usize = 2;

fn come_and_pass() {
    let barrier = Arc::new(StartBarrier::new(WORKERS));
    let confined = Arc::new(AtomicBool::new(false));
    let times = Arc::new(AtomicUsize::new(0));
    let participants = (0..WORKERS)
        .map(Participant::Worker)
        .chain([Participant::Protocol]);
    let spawn = |participant| {
        let (barrier, confined) = (Arc::clone(&barrier), Arc::clone(&confined));
        thread::spawn(move || {
            // A worker comes whenever it has been given a queue.
            for _ in 0..2 {
                barrier.pass(participant);
                assert!(
                    confined.load(Ordering::SeqCst),
                    "{participant:?} has no filter"
                );
            }
        })
    };
    let threads: Vec<_> = participants.map(spawn).collect();
    let count = Arc::clone(&times);
    barrier.close_behind(move || {
        count.fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
        confined.store(true, Ordering::SeqCst);
        true
    });
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(times.load(Ordering::SeqCst), 1);
}

/// The filter cannot be installed: nobody passes, which the library calls a deadlock once nothing else
/// can happen.
fn come_and_wait() {
    let barrier = Arc::new(StartBarrier::new(1));
    for participant in [Participant::Worker(0), Participant::Protocol] {
        let barrier = Arc::clone(&barrier);
        thread::spawn(move || {
            barrier.pass(participant);
            panic!("{participant:?} has passed");
        });
    }
    barrier.close_behind(|| false);
}

#[test]
fn model_of_the_gate_all_pass_behind_the_filter_and_none_before() {
    shuttle::check_random(come_and_pass, 500);
    shuttle::check_pct(come_and_pass, 500, 3);
}

#[test]
#[should_panic(expected = "deadlock")]
fn model_of_the_gate_none_passes_without_a_filter() {
    shuttle::check_random(come_and_wait, 1);
}
