// SPDX-License-Identifier: Apache-2.0
//! The moment between starting and being confined: the threads that work for a guest come to the gate
//! and wait there until the filter is installed in all threads.
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
    confine: Option<Box<dyn FnOnce() -> bool + Send>>,
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

    /// Comes to the gate and waits until it is open. If the frontend hangs up before the protocol
    /// thread has come, it stays closed, and they wait for ever.
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

    /// The waiter brings what confines all threads and says whether it could, and goes on: it touches
    /// nothing of a guest. The last one to come does it, while the others wait.
    pub fn close_behind(&self, confine: impl FnOnce() -> bool + Send + 'static) {
        let mut state = lock(&self.state);
        state.confine = Some(Box::new(confine));
        drop(self.admit(state, Visitor::Waiter));
    }

    /// The last one confines them all, and opens the gate if that succeeds.
    fn admit<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        visitor: Visitor,
    ) -> MutexGuard<'a, State> {
        state.arrived.insert(visitor);
        if state.arrived.len() == self.visitors
            && let Some(confine) = state.confine.take()
            && confine()
        {
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

    const WORKERS: usize = 3;

    /// A gate, and how often it was confined behind.
    #[derive(Clone)]
    struct Stand(Arc<Gate>, Arc<AtomicUsize>);

    impl Stand {
        fn new() -> Self {
            Self(Arc::new(Gate::new(WORKERS)), Arc::default())
        }

        fn confined(&self) -> usize {
            self.1.load(Ordering::Relaxed)
        }

        /// Brings what confines.
        fn bring(&self, succeeds: bool) {
            let count = self.1.clone();
            self.0.close_behind(move || {
                count.fetch_add(1, Ordering::Relaxed);
                succeeds
            });
        }

        /// A thread comes, and waits; it tells how often it had been confined when it passed.
        fn send(&self, visitor: Visitor) -> thread::JoinHandle<usize> {
            let stand = self.clone();
            let before = lock(&self.0.state).arrived.len();
            let thread = thread::spawn(move || {
                stand.0.pass(visitor);
                stand.confined()
            });
            while lock(&self.0.state).arrived.len() == before {
                thread::yield_now();
            }
            thread
        }
    }

    fn visitors() -> Vec<Visitor> {
        let workers = (0..WORKERS).map(Visitor::Worker);
        workers.chain([Visitor::Protocol]).collect()
    }

    #[test]
    fn nobody_passes_before_the_last_one_has_confined_them_all() {
        // The waiter comes first, in the middle and last.
        for before in 0..=WORKERS + 1 {
            let stand = Stand::new();
            let mut threads = Vec::new();
            for (number, visitor) in visitors().into_iter().enumerate() {
                if number == before {
                    stand.bring(true);
                }
                assert_eq!(stand.confined(), 0, "{number} of {before}");
                threads.push(stand.send(visitor));
            }
            if before > WORKERS {
                assert_eq!(stand.confined(), 0);
                stand.bring(true);
            }
            for thread in threads {
                assert_eq!(thread.join().unwrap(), 1);
            }
            // Whoever comes once more goes on.
            stand.0.pass(Visitor::Protocol);
            assert_eq!(stand.confined(), 1);
        }
    }

    #[test]
    fn nobody_passes_when_they_cannot_be_confined() {
        let stand = Stand::new();
        let threads: Vec<_> = visitors().into_iter().map(|it| stand.send(it)).collect();
        stand.bring(false);
        assert_eq!(stand.confined(), 1);
        assert!(!stand.0.open.load(Ordering::Relaxed));
        assert!(threads.iter().all(|thread| !thread.is_finished()));
    }
}
