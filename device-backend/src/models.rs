// SPDX-License-Identifier: Apache-2.0
//! The gate in many orders of its threads: `gate.rs` once more, with a library's locks in place of the
//! standard library's, which decides which thread runs next.
//!
//! Found when planted: a gate that is opened without waking those who wait, a waiter that does not look
//! whether it came last, and a gate that opens although the filter could not be installed.

use std::sync::Arc;

use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;

use gate::{Gate, Visitor};

mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, Ordering};
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[allow(dead_code, unreachable_pub, missing_docs, clippy::duplicate_mod)] // not all of it is used here
#[path = "gate.rs"]
mod gate;

const WORKERS: usize = 2;

fn come_and_pass() {
    let gate = Arc::new(Gate::new(WORKERS));
    let confined = Arc::new(AtomicBool::new(false));
    let times = Arc::new(AtomicUsize::new(0));
    let visitors = (0..WORKERS).map(Visitor::Worker).chain([Visitor::Protocol]);
    let spawn = |visitor| {
        let (gate, confined) = (Arc::clone(&gate), Arc::clone(&confined));
        thread::spawn(move || {
            // A worker comes whenever it has been given a queue.
            for _ in 0..2 {
                gate.pass(visitor);
                assert!(confined.load(Ordering::SeqCst), "{visitor:?} has no filter");
            }
        })
    };
    let threads: Vec<_> = visitors.map(spawn).collect();
    let count = Arc::clone(&times);
    gate.close_behind(move || {
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
    let gate = Arc::new(Gate::new(1));
    for visitor in [Visitor::Worker(0), Visitor::Protocol] {
        let gate = Arc::clone(&gate);
        thread::spawn(move || {
            gate.pass(visitor);
            panic!("{visitor:?} has passed");
        });
    }
    gate.close_behind(|| false);
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
