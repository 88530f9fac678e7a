// SPDX-License-Identifier: Apache-2.0
//! Points at which a test makes the process die. Does nothing outside tests.

#[cfg(not(test))]
#[inline(always)]
pub(crate) fn step() {}

#[cfg(test)]
pub(crate) use armed::{Crash, arm, step};

#[cfg(test)]
mod armed {
    use std::cell::Cell;

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// The panic payload of a failpoint.
    #[derive(Debug)]
    pub(crate) struct Crash;

    /// Makes this thread unwind after `steps` more steps; `None` disarms.
    pub(crate) fn arm(steps: Option<u32>) {
        LEFT.set(steps);
    }

    /// Counts a step.
    pub(crate) fn step() {
        match LEFT.get() {
            None => {}
            Some(0) => {
                LEFT.set(None);
                std::panic::resume_unwind(Box::new(Crash));
            }
            Some(left) => LEFT.set(Some(left - 1)),
        }
    }
}
