// SPDX-License-Identifier: Apache-2.0
//! The start barrier: each thread that will touch guest data waits here until the seccomp filter is
//! installed in all threads.
//!
//! A starting thread makes system calls that the filter does not allow, and a started one must not
//! touch guest data without the filter.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::RandomState;

use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering, PoisonError};

/// The start barrier of a process.
#[derive(Debug)]
pub struct StartBarrier {
    open: AtomicBool,
    /// The number of threads that it waits for.
    participants: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// A thread that waits at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Participant {
    /// One of the workers.
    Worker(usize),
    /// The protocol thread.
    Protocol,
    /// The main thread, which waits for the end of the protocol thread.
    Main,
}

#[derive(Default)]
struct State {
    arrived: BTreeSet<Participant>,
    /// Installs the filter in all threads; supplied by the main thread.
    confine: Option<Box<dyn FnOnce() -> bool + Send>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.arrived.fmt(f)
    }
}

impl StartBarrier {
    /// A closed barrier for so many workers, the protocol thread and the main thread.
    pub fn new(workers: usize) -> Self {
        Self {
            open: AtomicBool::new(false),
            participants: workers + 2,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many threads have arrived.
    #[cfg(test)]
    pub(crate) fn arrived(&self) -> usize {
        self.lock().arrived.len()
    }

    /// Whether the threads may pass.
    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Blocks until the barrier is open. If the frontend hangs up before the protocol thread has
    /// arrived, the barrier stays closed and the threads wait until the process ends.
    pub fn pass(&self, participant: Participant) {
        if self.open.load(Ordering::Acquire) {
            return;
        }
        // Hash tables of this thread are seeded by the first: the filter has no getrandom.
        let _ = RandomState::new();
        let state = self.admit(self.lock(), participant);
        let closed = |_: &mut State| !self.open.load(Ordering::Acquire);
        drop(self.changed.wait_while(state, closed));
    }

    /// The main thread supplies the closure that installs the filter in all threads and does not
    /// block: it touches no guest data. The last thread to arrive runs the closure.
    pub fn close_behind(&self, confine: impl FnOnce() -> bool + Send + 'static) {
        let mut state = self.lock();
        state.confine = Some(Box::new(confine));
        drop(self.admit(state, Participant::Main));
    }

    /// The last thread to arrive installs the filter, and opens the barrier if that succeeds.
    fn admit<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        participant: Participant,
    ) -> MutexGuard<'a, State> {
        state.arrived.insert(participant);
        if state.arrived.len() == self.participants
            && let Some(confine) = state.confine.take()
            && confine()
        {
            self.open.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        state
    }
}
