// SPDX-License-Identifier: Apache-2.0
//! The button as a device with queues: one worker thread for events and status.

use std::os::fd::BorrowedFd;

use device_backend::queue_device::{QueueDevice, QueueThread, QueueWorker};
use device_backend::vring::Vring;
use vmm_sys_util::epoll::EventSet;

use crate::shared::Shared;
use crate::worker::{Progress, Worker};

/// The device.
pub type Device = QueueDevice<Worker>;

impl QueueWorker for Worker {
    type Model = Shared;
    type Progress = Progress;

    /// Nothing but the queues and the wake event wakes the worker.
    fn engine(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        None
    }

    fn run(&mut self, vrings: &[Vring], progress: &Progress) {
        self.run(vrings, progress);
    }

    /// Waits until the worker thread has seen the change of a ring: it has told of a press wholly or
    /// not at all.
    fn settle(thread: &QueueThread<Self>, slot: usize) {
        if let Some(vring) = thread.vring(slot) {
            thread.wake.notify();
            thread.progress.wait(slot, vring);
        }
    }
}
