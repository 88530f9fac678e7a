// SPDX-License-Identifier: Apache-2.0
//! Where vCPU threads stop while the VM is paused. It is closed when the VM starts.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The gate.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    /// How many threads are waiting.
    waiting: usize,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Main thread: lets everyone pass.
    pub fn open(&self) {
        self.lock().open = true;
        self.changed.notify_all();
    }

    /// Main thread: stops whoever comes next.
    pub fn close(&self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn threads_pass_only_while_the_gate_is_open() {
        let (gate, passed) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (gate, passed) = (Arc::clone(&gate), Arc::clone(&passed));
                std::thread::spawn(move || {
                    gate.pass();
                    passed.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        gate.wait_until_stopped(4);
        assert_eq!(passed.load(Ordering::SeqCst), 0);
        gate.open();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(passed.load(Ordering::SeqCst), 4);
    }
}
