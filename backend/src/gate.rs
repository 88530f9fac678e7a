// SPDX-License-Identifier: Apache-2.0
//! The moment between starting and being confined: every thread comes to the gate and waits there
//! until the filter is installed in all of them.
//!
//! A thread that is still starting makes system calls that no filter should have to allow, and one
//! that has started must not touch what a guest sent before the filter is there.

use std::collections::BTreeSet;
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::lock;

/// The gate.
#[derive(Debug)]
pub struct Gate {
    open: AtomicBool,
    workers: usize,
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

#[derive(Debug, Default)]
struct State {
    arrived: BTreeSet<Visitor>,
    ended: bool,
}

impl Gate {
    /// A closed gate for so many workers, the protocol thread and the one that waits for its end.
    pub fn new(workers: usize) -> Self {
        Self {
            open: AtomicBool::new(false),
            workers,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Comes to the gate and waits until it is open.
    pub fn pass(&self, visitor: Visitor) {
        if self.open.load(Ordering::Acquire) {
            return;
        }
        // Hash tables of this thread are seeded by the first: the filter has no getrandom.
        let _ = RandomState::new();
        let mut state = lock(&self.state);
        state.arrived.insert(visitor);
        self.changed.notify_all();
        let closed = |_: &mut State| !self.open.load(Ordering::Acquire);
        drop(self.changed.wait_while(state, closed));
    }

    /// Comes to the gate and goes on: this thread touches nothing of a guest.
    pub fn arrive(&self, visitor: Visitor) {
        lock(&self.state).arrived.insert(visitor);
        self.changed.notify_all();
    }

    /// Once everyone has come and waits, does what confines them all, and lets them go on. If the
    /// frontend hangs up before that, they wait for ever.
    pub fn confine<E>(&self, install: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let all = self.workers + 2;
        let missing = |state: &mut State| state.arrived.len() < all && !state.ended;
        let waited = self.changed.wait_while(lock(&self.state), missing);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.arrived.len() >= all {
            install()?;
            self.open.store(true, Ordering::Release);
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Says that the frontend is gone: some threads may never come.
    pub fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }
}
