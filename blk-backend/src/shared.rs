// SPDX-License-Identifier: Apache-2.0
//! State that the workers and the protocol thread share: the disk, guest memory, the acknowledged
//! features.

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock};

use device_backend::memory::Memory;
use device_backend::wake_event::WakeEvent;
use ipc::health::{HealthPage, QueueHealth};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

use crate::blocks::Blocks;
use crate::config::Disk;
use crate::io::{Io, Op};
use crate::request::Status;
use crate::witness::Witness;

/// The shared state of the workers and the protocol thread.
#[derive(Debug)]
pub struct Shared {
    /// The disk.
    pub disk: Disk,
    /// Whether the previous generation died of itself.
    pub after_crash: bool,
    /// The last ping; the workers store it as their heartbeat in the health page.
    pub ping: AtomicU32,
    health: &'static HealthPage,
    /// Guest memory.
    pub memory: Memory,
    /// The blocks being changed, if the storage has larger blocks than the guest.
    pub blocks: Option<Blocks>,
    /// The wake events of the workers.
    wake_events: OnceLock<Vec<Arc<WakeEvent>>>,
    features: AtomicU64,
    /// Whether writes of an earlier generation were lost.
    pub witness: Witness,
}

impl Shared {
    /// The initial state: no memory, no features.
    pub fn new(disk: Disk, health: &'static HealthPage, after_crash: bool) -> Arc<Self> {
        let blocks = disk.geometry.has_partial_blocks().then(Blocks::default);
        Arc::new(Self {
            blocks,
            wake_events: OnceLock::new(),
            disk,
            after_crash,
            ping: AtomicU32::new(0),
            health,
            memory: Memory::default(),
            features: AtomicU64::new(0),
            witness: Witness::default(),
        })
    }

    /// Stores the features that the driver has acknowledged. A worker reads them when it attaches
    /// to a ring that starts later.
    pub fn set_features(&self, features: u64) {
        self.features.store(features, Relaxed);
        self.memory.touch();
    }

    /// Stores the wake events of the workers.
    pub fn set_wake_events(&self, wake_events: Vec<Arc<WakeEvent>>) {
        let _ = self.wake_events.set(wake_events);
    }

    /// Whether indirect descriptors were negotiated.
    pub fn indirect(&self) -> bool {
        self.has(VIRTIO_RING_F_INDIRECT_DESC)
    }

    /// Whether every write must be durable, because the driver does not flush (§5.2.6.2).
    pub fn durable(&self) -> bool {
        !self.has(VIRTIO_BLK_F_FLUSH)
    }

    fn has(&self, bit: u32) -> bool {
        self.features.load(Acquire) & (1 << bit) != 0
    }

    /// The health page.
    pub fn page(&self) -> &HealthPage {
        self.health
    }

    /// The part of the health page that belongs to a queue.
    pub fn health(&self, queue: u16) -> &QueueHealth {
        &self.health.queues[usize::from(queue) % ipc::health::QUEUES]
    }

    /// Wakes the workers of some queues, each of which has a request to start.
    pub fn wake(&self, queues: &[u16]) {
        let wake_events = self.wake_events.get();
        for queue in queues {
            if let Some(wake) =
                wake_events.and_then(|wake_events| wake_events.get(usize::from(*queue)))
            {
                wake.notify();
            }
        }
    }

    /// Counts a completed request.
    pub fn count(&self, queue: u16, io: &Io, status: Status) {
        let health = self.health(queue);
        health.requests.fetch_add(1, Relaxed);
        match (status, io.op()) {
            (Status::Ok, Op::Read) => health.read_bytes.fetch_add(io.len_bytes(), Relaxed),
            (Status::Ok, Op::Write) => health.written_bytes.fetch_add(io.len_bytes(), Relaxed),
            (Status::Ok, _) => 0,
            _ => health.errors.fetch_add(1, Relaxed),
        };
    }
}
