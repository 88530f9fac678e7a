// SPDX-License-Identifier: Apache-2.0
//! Places at which a test lets the process die. Nothing at all outside tests.

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

    /// What a failpoint unwinds with.
    #[derive(Debug)]
    pub(crate) struct Crash;

    /// The step after `steps` more is the last one of this thread; `None` disarms.
    pub(crate) fn arm(steps: Option<u32>) {
        LEFT.set(steps);
    }

    /// One step done.
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
