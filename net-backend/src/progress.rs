// SPDX-License-Identifier: Apache-2.0
//! How far a worker thread has followed the frontend.

use std::sync::{Condvar, Mutex};

use device_backend::lock;
use device_backend::vring::Vring;

/// The most queues of one worker: receive, transmit, control.
pub const SLOTS: usize = 3;

/// How far a worker thread has followed the frontend.
#[derive(Debug, Default)]
pub struct Progress {
    followed: Mutex<[Option<u32>; SLOTS]>,
    changed: Condvar,
}

impl Progress {
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
