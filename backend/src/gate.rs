// SPDX-License-Identifier: Apache-2.0
//! The moment between starting and being confined: every thread comes to the gate and waits there
//! until the filter is installed in all of them.
//!
//! A thread that is still starting makes system calls that no filter should have to allow, and one
//! that has started must not touch what a guest sent before the filter is there.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};

use crate::lock;

/// The gate.
#[derive(Debug)]
pub struct Gate {
    open: AtomicBool,
    /// So many come to it.
    visitors: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Who comes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Visitor {
    /// One of the workers.
    Worker(usize),
    /// The protocol thread.
    Protocol,
    /// The thread that waits for the end of the protocol thread.
    Waiter,
}

#[derive(Default)]
struct State {
    arrived: BTreeSet<Visitor>,
    /// What confines them all; the waiter brings it.
    confine: Option<Box<dyn FnOnce() + Send>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.arrived.fmt(f)
    }
}

impl Gate {
    /// A closed gate for so many workers, the protocol thread and the one that waits for its end.
    pub fn new(workers: usize) -> Self {
        Self {
            open: AtomicBool::new(false),
            visitors: workers + 2,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Comes to the gate and waits until it is open. If the frontend hangs up before that, it stays
    /// closed, and they wait for ever.
    pub fn pass(&self, visitor: Visitor) {
        if self.open.load(Ordering::Acquire) {
            return;
        }
        // Hash tables of this thread are seeded by the first: the filter has no getrandom.
        let _ = RandomState::new();
        let state = self.admit(lock(&self.state), visitor);
        let closed = |_: &mut State| !self.open.load(Ordering::Acquire);
        drop(self.changed.wait_while(state, closed));
    }

    /// The waiter brings what confines all threads, and goes on: it touches nothing of a guest. The
    /// last one to come does it, while all others wait; it must not return if it fails.
    pub fn close_behind(&self, confine: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.state);
        state.confine = Some(Box::new(confine));
        drop(self.admit(state, Visitor::Waiter));
    }

    /// The last one confines them all, and opens the gate.
    fn admit<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        visitor: Visitor,
    ) -> MutexGuard<'a, State> {
        state.arrived.insert(visitor);
        if state.arrived.len() == self.visitors
            && let Some(confine) = state.confine.take()
        {
            confine();
            self.open.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn nobody_passes_before_the_last_one_has_confined_them_all() {
        const WORKERS: usize = 3;
        // The waiter comes first, in the middle and last.
        for before in 0..=WORKERS + 1 {
            let gate = Arc::new(Gate::new(WORKERS));
            let confined = Arc::new(AtomicUsize::new(0));
            let workers = (0..WORKERS).map(Visitor::Worker);
            let visitors: Vec<_> = workers.chain([Visitor::Protocol]).collect();
            let spawn = |visitor: Visitor| {
                let (gate, confined) = (gate.clone(), confined.clone());
                thread::spawn(move || {
                    gate.pass(visitor);
                    confined.load(Ordering::Relaxed)
                })
            };
            let arrived = |count: usize| {
                while lock(&gate.state).arrived.len() < count {
                    thread::yield_now();
                }
            };
            let (early, late) = visitors.split_at(before);
            let mut threads: Vec<_> = early.iter().copied().map(spawn).collect();
            arrived(before);
            assert_eq!(confined.load(Ordering::Relaxed), 0);
            let counter = confined.clone();
            gate.close_behind(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            threads.extend(late.iter().copied().map(spawn));
            for thread in threads {
                assert_eq!(thread.join().unwrap(), 1);
            }
            // Whoever comes once more goes on.
            gate.pass(Visitor::Protocol);
            assert_eq!(confined.load(Ordering::Relaxed), 1);
        }
    }
}
