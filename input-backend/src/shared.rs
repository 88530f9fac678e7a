// SPDX-License-Identifier: Apache-2.0
//! What the worker thread and the protocol thread share, which is the device for the frontend.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};

use device_backend::memory::Memory;
use device_backend::queue_device::Model;
use ipc::fd::input::{QUEUE_SIZE, QUEUES};
use ipc::health::{HealthPage, QueueHealth};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use crate::deliveries::Deliveries;

/// What the threads share.
#[derive(Debug)]
pub struct Shared {
    /// Guest memory.
    pub memory: Memory,
    /// The last ping; the worker answers it in the health page.
    pub ping: AtomicU32,
    /// How often the button has been pressed.
    pub pressed: AtomicU32,
    /// How many presses the driver was told of; only the worker writes it.
    pub deliveries: Deliveries,
    health: &'static HealthPage,
}

impl Shared {
    /// A button that has been pressed so often.
    pub fn new(pressed: u32, deliveries: Deliveries, health: &'static HealthPage) -> Arc<Self> {
        Arc::new(Self {
            memory: Memory::default(),
            ping: AtomicU32::new(0),
            pressed: AtomicU32::new(pressed),
            deliveries,
            health,
        })
    }

    /// How many presses the driver has not been told of.
    pub fn pending(&self) -> u32 {
        self.deliveries.pending(self.pressed.load(Acquire))
    }

    /// The part of the health page that belongs to a queue.
    pub fn health(&self, queue: u16) -> &QueueHealth {
        &self.health.queues[usize::from(queue % QUEUES)]
    }
}

impl Model for Shared {
    fn queues(&self) -> u16 {
        QUEUES
    }

    fn queue_size(&self) -> u16 {
        QUEUE_SIZE
    }

    /// Without VIRTIO_F_EVENT_IDX: a press waits for several buffers, of which the driver would kick
    /// for the first alone.
    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    /// There is no feature to choose.
    fn set_features(&self, _: u64) {}

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    /// The vmm serves the configuration space.
    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn memory(&self) -> &Memory {
        &self.memory
    }

    fn ping(&self) -> &AtomicU32 {
        &self.ping
    }

    fn worker_of(&self, queue: u16) -> (usize, usize) {
        (0, usize::from(queue))
    }

    fn press(&self, count: u32) -> bool {
        self.pressed.fetch_max(count, Release) < count
    }
}
