// SPDX-License-Identifier: Apache-2.0
//! The disk as a multi-queue device: one worker for each queue.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Condvar};

use device_backend::lock;
use device_backend::memory::Memory;
use device_backend::queue_device::{Model, QueueDevice, QueueThread, QueueWorker};
use device_backend::vring::Vring;
use device_backend::wake_event::WakeEvent;
use ipc::health::Crash;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vmm_sys_util::epoll::EventSet;

use crate::config::Disk;
use crate::shared::Shared;
use crate::worker::Worker;

/// The device type of vhost-user-backend.
pub type Device = QueueDevice<Worker>;

impl Model for Shared {
    fn queues(&self) -> u16 {
        self.disk.queues
    }

    fn queue_size(&self) -> u16 {
        self.disk.queue_size
    }

    fn features(&self) -> u64 {
        self.disk.features()
    }

    fn set_features(&self, features: u64) {
        self.set_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        Disk::protocol_features()
    }

    fn config(&self) -> Vec<u8> {
        self.disk.config().to_vec()
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn ping(&self) -> &AtomicU32 {
        &self.ping
    }

    fn worker_of(&self, queue: u16) -> (usize, usize) {
        (usize::from(queue), 0)
    }

    fn set_wake_events(&self, wake_events: Vec<Arc<WakeEvent>>) {
        self.set_wake_events(wake_events);
    }

    fn synced(&self, lost: bool) -> bool {
        self.witness.answer(lost);
        true
    }
}

impl QueueWorker for Worker {
    type Model = Shared;
    /// Notified when the worker has made progress.
    type Progress = Condvar;

    /// The descriptor that reports completions.
    fn engine(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        Some((self.engine().as_fd(), EventSet::IN))
    }

    fn run(&mut self, vrings: &[Vring], progress: &Condvar) {
        let Some(vring) = vrings.first() else {
            return;
        };
        if let Err(e) = self.run(vring) {
            let errno = e.0.raw_os_error().unwrap_or(libc::EIO);
            device_backend::program::die(Crash::Engine(errno.unsigned_abs()), &e);
        }
        progress.notify_all();
    }

    /// Waits until its worker has completed all requests of the queue.
    fn settle(thread: &QueueThread<Self>, slot: usize) {
        let Some(vring) = thread.vring(slot) else {
            return;
        };
        let busy = |worker: &mut Self| !worker.is_drained(vring);
        drop(thread.progress.wait_while(lock(&thread.worker), busy));
    }

    fn close(threads: &[QueueThread<Self>]) {
        for thread in threads {
            lock(&thread.worker).close();
        }
        threads.iter().for_each(|thread| Self::settle(thread, 0));
    }
}
