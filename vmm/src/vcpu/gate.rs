// SPDX-License-Identifier: Apache-2.0
//! Where vCPU threads wait while the VM is paused. It is closed until the VM starts.
//!
//! `models.rs` tests this file with many orders of its threads.

use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The gate that vCPU threads pass before they enter the guest.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    /// How many threads wait here.
    waiting: usize,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// vCPU threads: clears the exit request, then waits until the gate is open. In this order:
    /// clearing it after passing the gate could lose a newer request.
    pub fn stop(&self, clear_exit_request: impl FnOnce()) {
        clear_exit_request();
        self.pass();
    }

    /// vCPU threads: waits until the gate is open.
    pub fn pass(&self) {
        let mut state = self.lock();
        if state.open {
            return;
        }
        state.waiting += 1;
        self.changed.notify_all();
        while !state.open {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    /// vCPU threads: waits for the process to end.
    pub fn wait_for_end(&self) -> ! {
        let mut state = self.lock();
        state.waiting += 1;
        self.changed.notify_all();
        loop {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Main thread: stops the threads of `kicks`, and waits until none is in the guest.
    pub fn stop_all<K>(&self, kicks: &[K], kick: impl Fn(&K)) {
        self.close();
        kicks.iter().for_each(kick);
        self.wait_until_stopped(kicks.len());
    }

    /// Main thread: lets all threads pass.
    pub fn open(&self) {
        self.lock().open = true;
        self.changed.notify_all();
    }

    /// Main thread: makes the next threads wait.
    fn close(&self) {
        self.lock().open = false;
    }

    /// Main thread: waits until `threads` of them wait here. They must have been kicked.
    pub fn wait_until_stopped(&self, threads: usize) {
        let mut state = self.lock();
        while state.waiting < threads {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
