// SPDX-License-Identifier: Apache-2.0
//! The NIC as a device with queues: one worker thread for each pair; the first one serves the
//! control queue, too.

use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU32;

use device_backend::memory::Memory;
use device_backend::queue_device::{Model, QueueDevice, QueueThread, QueueWorker};
use device_backend::vring::Vring;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vmm_sys_util::epoll::EventSet;

use crate::config::Nic;
use crate::shared::Shared;
use crate::worker::{Progress, Worker};

/// The device.
pub type Device = QueueDevice<Worker>;

impl Model for Shared {
    fn queues(&self) -> u16 {
        self.nic.queues()
    }

    fn queue_size(&self) -> u16 {
        self.nic.queue_size
    }

    fn features(&self) -> u64 {
        self.nic.features()
    }

    fn set_features(&self, features: u64) {
        self.set_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        Nic::protocol_features()
    }

    fn config(&self) -> Vec<u8> {
        self.nic.config(self.settings().1.link_up).to_vec()
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn ping(&self) -> &AtomicU32 {
        &self.ping
    }

    fn worker_of(&self, queue: u16) -> (usize, usize) {
        if queue == 2 * self.nic.pairs {
            return (0, 2);
        }
        (usize::from(queue / 2), usize::from(queue % 2))
    }

    fn set_link(&self, up: bool) -> bool {
        self.set_link(up);
        true
    }
}

impl QueueWorker for Worker {
    type Model = Shared;
    type Progress = Progress;

    /// The tap.
    fn engine(&self) -> Option<(BorrowedFd<'_>, EventSet)> {
        // Edge-triggered: a tap that stays readable while there are no buffers must not wake the
        // thread.
        let edges = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        Some((self.tap(), edges))
    }

    fn run(&mut self, vrings: &[Vring], progress: &Progress) {
        self.run(vrings, progress);
    }

    /// Waits until the worker thread has seen the change of a ring. Chains that it took and did not
    /// use are left to the next one that serves the ring.
    fn settle(thread: &QueueThread<Self>, slot: usize) {
        if let Some(vring) = thread.vring(slot) {
            thread.wake.notify();
            thread.progress.wait(slot, vring);
        }
    }
}
