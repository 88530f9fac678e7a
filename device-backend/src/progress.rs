// SPDX-License-Identifier: Apache-2.0
//! How far a worker thread has followed the frontend.

use std::sync::{Condvar, Mutex};

use crate::lock;
use crate::vring::Vring;

/// How far a worker thread with at most `SLOTS` queues has followed the frontend.
#[derive(Debug)]
pub struct Progress<const SLOTS: usize> {
    followed: Mutex<[Option<u32>; SLOTS]>,
    changed: Condvar,
}

impl<const SLOTS: usize> Default for Progress<SLOTS> {
    fn default() -> Self {
        Self {
            followed: Mutex::new([None; SLOTS]),
            changed: Condvar::new(),
        }
    }
}

impl<const SLOTS: usize> Progress<SLOTS> {
    /// Records that the worker has followed its rings up to these generations.
    pub fn settle(&self, followed: [Option<u32>; SLOTS]) {
        *lock(&self.followed) = followed;
        self.changed.notify_all();
    }

    /// Waits until the worker has followed a ring up to its present generation.
    pub fn wait(&self, slot: usize, vring: &Vring) {
        let behind = |followed: &mut [Option<u32>; SLOTS]| {
            followed.get(slot).copied().flatten() != Some(vring.generation())
        };
        drop(self.changed.wait_while(lock(&self.followed), behind));
    }
}
