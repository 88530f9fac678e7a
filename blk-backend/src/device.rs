// SPDX-License-Identifier: Apache-2.0
//! The device as vhost-user-backend sees it: answers the frontend on the protocol thread and hands
//! each event of a queue to its worker.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use device_backend::memory::Memory;
use device_backend::start_barrier::{Participant, StartBarrier};
use device_backend::vring::Vring;
use device_backend::wake_event::{Events, WakeEvent};
use device_backend::{SharedGuestMemory, config_space, lock};
use ipc::health::{Crash, HealthPage, QueueHealth};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use vmm_sys_util::epoll::EventSet;

use crate::blocks::Blocks;
use crate::config::Disk;
use crate::io::{Io, Op};
use crate::request::Status;
use crate::witness::Witness;
use crate::worker::Worker;

/// What workers and protocol thread share.
#[derive(Debug)]
pub struct Shared {
    /// The disk.
    pub disk: Disk,
    /// Whether a predecessor of this process died of itself.
    pub after_crash: bool,
    /// The last ping; workers answer it in the health page.
    pub ping: AtomicU32,
    health: &'static HealthPage,
    /// Guest memory.
    pub memory: Memory,
    /// Which blocks are being changed, if the storage has larger ones than the guest.
    pub blocks: Option<Blocks>,
    /// Those of the workers.
    wake_events: OnceLock<Vec<Arc<WakeEvent>>>,
    features: AtomicU64,
    /// Whether a predecessor has lost writes.
    pub witness: Witness,
}

impl Shared {
    /// What a device starts with: no memory, no features.
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

    /// Whether indirect descriptors were negotiated.
    pub fn indirect(&self) -> bool {
        self.has(VIRTIO_RING_F_INDIRECT_DESC)
    }

    /// Whether every write has to be durable, since the driver will not flush (§5.2.6.2).
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

    /// Wakes the workers of some queues: each has something to begin.
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

/// The device: one worker for each queue.
#[derive(Debug)]
pub struct Device {
    shared: Arc<Shared>,
    threads: Vec<QueueThread>,
    barrier: StartBarrier,
}

#[derive(Debug)]
struct QueueThread {
    worker: Mutex<Worker>,
    /// Notified when the worker has done something.
    progress: Condvar,
    /// The ring, once the worker has seen it.
    vring: Mutex<Option<Vring>>,
    /// Readable when the worker is to show that it lives.
    wake: Arc<WakeEvent>,
}

impl Device {
    /// A device with these workers, one for each queue.
    pub fn new(shared: Arc<Shared>, workers: Vec<Worker>) -> io::Result<Arc<Self>> {
        let threads = workers.into_iter().map(|worker| {
            Ok(QueueThread {
                worker: Mutex::new(worker),
                progress: Condvar::new(),
                vring: Mutex::new(None),
                wake: Arc::new(WakeEvent::new()?),
            })
        });
        let threads = threads.collect::<io::Result<Vec<QueueThread>>>()?;
        let wake_events = threads.iter().map(|thread| thread.wake.clone()).collect();
        let _ = shared.wake_events.set(wake_events);
        Ok(Arc::new(Self {
            shared,
            barrier: StartBarrier::new(threads.len()),
            threads,
        }))
    }

    fn drain(&self) {
        self.threads.iter().for_each(QueueThread::drain);
    }

    fn events(&self) -> Events {
        Events::of(self.shared.disk.queues)
    }
}

impl device_backend::serve::Device for Device {
    fn memory(&self) -> SharedGuestMemory {
        self.shared.memory.shared()
    }

    /// Completions.
    fn watch(&self, daemon: &VhostUserDaemon<Arc<Self>>) -> io::Result<()> {
        for (thread, handler) in self.threads.iter().zip(daemon.get_epoll_handlers()) {
            let worker = &mut *lock(&thread.worker);
            let completions = (worker.engine().as_fd(), EventSet::IN);
            self.events().watch(&handler, completions, &thread.wake)?;
        }
        Ok(())
    }

    fn barrier(&self) -> &StartBarrier {
        &self.barrier
    }

    fn ping(&self, ping: u32) {
        self.shared.ping.store(ping, Relaxed);
        self.threads.iter().for_each(|thread| thread.wake.notify());
    }

    fn synced(&self, lost: bool) {
        self.shared.witness.answer(lost);
        self.threads.iter().for_each(|thread| thread.wake.notify());
    }

    fn close(&self) {
        for thread in &self.threads {
            lock(&thread.worker).close();
        }
        self.drain();
    }
}

impl QueueThread {
    /// Waits until nothing of this queue is in flight; its worker sees to that.
    fn drain(&self) {
        let Some(vring) = lock(&self.vring).clone() else {
            return;
        };
        let busy = |worker: &mut Worker| !worker.is_drained(&vring);
        drop(self.progress.wait_while(lock(&self.worker), busy));
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        usize::from(self.shared.disk.queues)
    }

    fn max_queue_size(&self) -> usize {
        usize::from(self.shared.disk.queue_size)
    }

    fn features(&self) -> u64 {
        self.barrier.pass(Participant::Protocol);
        self.shared.disk.features()
    }

    fn acked_features(&self, features: u64) {
        self.shared.features.store(features, Relaxed);
        // A worker looks at the features when it attaches to a ring that starts later.
        self.shared.memory.touch();
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.barrier.pass(Participant::Protocol);
        Disk::protocol_features()
    }

    fn reset_device(&self) {
        self.drain();
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.barrier.pass(Participant::Protocol);
        config_space::part(self.shared.disk.config(), offset, size)
    }

    fn update_memory(&self, _memory: SharedGuestMemory) -> io::Result<()> {
        self.barrier.pass(Participant::Protocol);
        // Asleep workers have nothing in flight that would notice; they look before they take.
        self.shared.memory.replaced()
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.shared.disk.queues)
            .map(|queue| 1 << queue)
            .collect()
    }

    /// GET_VRING_BASE: the ring is stopped already; what was taken from it is completed.
    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        let Some(thread) = self.threads.get(queue as usize) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        thread.drain();
        Ok(())
    }

    /// Never an error: that would end the worker for good, and leave the process without it. An engine
    /// that fails for good ends the process.
    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        number: usize,
    ) -> io::Result<()> {
        let (Some(thread), Some(vring)) = (self.threads.get(number), vrings.first()) else {
            return Ok(());
        };
        if event == self.events().wake {
            thread.wake.clear();
        }
        self.barrier.pass(Participant::Worker(number));
        lock(&thread.vring).get_or_insert_with(|| vring.clone());
        let outcome = lock(&thread.worker).run(vring);
        if let Err(e) = outcome {
            let errno = e.0.raw_os_error().unwrap_or(libc::EIO);
            device_backend::program::die(Crash::Engine(errno.unsigned_abs()), &e);
        }
        thread.progress.notify_all();
        Ok(())
    }
}
