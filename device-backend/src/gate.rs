// SPDX-License-Identifier: Apache-2.0
//! The moment between starting and being confined: the threads that work for a guest come to the gate
//! and wait there until the filter is installed in all threads.
//!
//! A thread that is still starting makes system calls that no filter should have to allow, and one
//! that has started must not touch what a guest sent before the filter is there.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::RandomState;

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, PoisonError};

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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have come.
    #[cfg(test)]
    pub(crate) fn arrived(&self) -> usize {
        self.lock().arrived.len()
    }

    /// Whether they were let through.
    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Comes to the gate and waits until it is open. If the frontend hangs up before the protocol
    /// thread has come, it stays closed, and they wait for ever.
    pub fn pass(&self, visitor: Visitor) {
        if self.open.load(Ordering::Acquire) {
            return;
        }
        // Hash tables of this thread are seeded by the first: the filter has no getrandom.
        let _ = RandomState::new();
        let state = self.admit(self.lock(), visitor);
        let closed = |_: &mut State| !self.open.load(Ordering::Acquire);
        drop(self.changed.wait_while(state, closed));
    }

    /// The waiter brings what confines all threads and says whether it could, and goes on: it touches
    /// nothing of a guest. The last one to come does it, while the others wait.
    pub fn close_behind(&self, confine: impl FnOnce() -> bool + Send + 'static) {
        let mut state = self.lock();
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
