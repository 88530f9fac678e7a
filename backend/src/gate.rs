// SPDX-License-Identifier: Apache-2.0
//! The moment between starting and being confined: every thread comes to the gate and waits there
//! until the filter is installed in all of them.
//!
//! A thread that is still starting makes system calls that no filter should have to allow, and one
//! that has started must not touch what a guest sent before the filter is there.

use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The gate.
#[derive(Debug, Default)]
pub struct Gate {
    open: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    arrived: u32,
    ended: bool,
}

impl Gate {
    /// Comes to the gate and waits until it is open. `first` says that this thread has not been
    /// here before.
    pub fn pass(&self, first: impl FnOnce() -> bool) {
        if self.open.load(Ordering::Acquire) {
            return;
        }
        // Hash tables of this thread are seeded by the first: the filter has no getrandom.
        let _ = RandomState::new();
        let mut state = self.lock();
        state.arrived += u32::from(first());
        self.changed.notify_all();
        let closed = |_: &mut State| !self.open.load(Ordering::Acquire);
        drop(self.changed.wait_while(state, closed));
    }

    /// Comes to the gate and goes on: this thread touches nothing of a guest.
    pub fn arrive(&self) {
        self.lock().arrived += 1;
        self.changed.notify_all();
    }

    /// Waits until so many threads have come. False if the frontend is gone before that.
    pub fn wait_for(&self, threads: u32) -> bool {
        let missing = |state: &mut State| state.arrived < threads && !state.ended;
        let waited = self.changed.wait_while(self.lock(), missing);
        waited.unwrap_or_else(PoisonError::into_inner).arrived >= threads
    }

    /// Lets everyone through.
    pub fn open(&self) {
        // Under the lock, so that nobody misses it between looking and waiting.
        let _state = self.lock();
        self.open.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Says that the frontend is gone: some threads may never come.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
