// SPDX-License-Identifier: Apache-2.0
//! The gate and kicks in many orders of their threads: `gate.rs` once more, with a library's locks in
//! place of the standard library's, which decides which thread runs next.
//!
//! Found when planted: a request to leave the guest taken back after the gate instead of before it, the
//! gate closed after the kicks, a thread that does not say that it waits now, and one that does not
//! look again when it is woken.

use std::sync::Arc;

use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use shuttle::thread;

use gate::Gate;
use sync::{Condvar, Mutex};

mod sync {
    pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(super) use std::sync::PoisonError;
}

#[allow(dead_code, unreachable_pub, missing_docs, clippy::duplicate_mod)] // not all of it is used here
#[path = "gate.rs"]
mod gate;

/// How often a guest leaves of itself, to have a register access answered.
const EXITS: usize = 2;
const CPUS: usize = 2;
const PAUSES: usize = 2;

/// A vCPU as KVM has it: `immediate_exit` is looked at when the guest is entered, a signal counts only
/// inside.
#[derive(Default)]
struct Cpu {
    immediate_exit: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    exits: AtomicUsize,
}

#[derive(Default)]
struct State {
    inside: bool,
    interrupted: bool,
}

impl Cpu {
    /// KVM_RUN; whether it was interrupted.
    fn run(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        if self.immediate_exit.load(Ordering::SeqCst) {
            return true;
        }
        state.inside = true;
        if self.exits.fetch_add(1, Ordering::SeqCst) < EXITS {
            drop(state);
            state = self.state.lock().unwrap();
        } else {
            let inside = |state: &mut State| !state.interrupted;
            state = self.changed.wait_while(state, inside).unwrap();
        }
        state.inside = false;
        std::mem::take(&mut state.interrupted)
    }

    fn kick(&self) {
        self.immediate_exit.store(true, Ordering::SeqCst);
        let mut state = self.state.lock().unwrap();
        // The handler of a signal that comes outside does nothing.
        state.interrupted |= state.inside;
        self.changed.notify_all();
    }

    fn is_inside(&self) -> bool {
        self.state.lock().unwrap().inside
    }
}

fn pause_and_resume() {
    let gate = Arc::new(Gate::default());
    let ends = Arc::new(AtomicBool::new(false));
    let cpus: Vec<Arc<Cpu>> = (0..CPUS).map(|_| Arc::default()).collect();
    let spawn = |cpu: &Arc<Cpu>| {
        let (cpu, gate, ends) = (Arc::clone(cpu), Arc::clone(&gate), Arc::clone(&ends));
        thread::spawn(move || {
            loop {
                gate.stop(|| cpu.immediate_exit.store(false, Ordering::SeqCst));
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                while !cpu.run() {}
            }
        })
    };
    let threads: Vec<_> = cpus.iter().map(spawn).collect();

    gate.wait_until_stopped(CPUS);
    for _ in 0..PAUSES {
        gate.open();
        gate.stop_all(&cpus, |cpu| cpu.kick());
        for _ in 0..2 {
            assert!(!cpus.iter().any(|cpu| cpu.is_inside()), "the guest runs");
            thread::yield_now();
        }
    }
    ends.store(true, Ordering::SeqCst);
    gate.open();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn model_of_the_gate_no_guest_runs_once_it_is_paused_and_all_run_again() {
    shuttle::check_random(pause_and_resume, 500);
    shuttle::check_pct(pause_and_resume, 500, 3);
}
