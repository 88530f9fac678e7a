// SPDX-License-Identifier: Apache-2.0
//! The device as vhost-user-backend sees it: answers the frontend on the protocol thread and hands
//! each event of a queue to its worker.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use backend::gate::Gate;
use backend::vring::Vring;
use backend::{GuestMemory, SharedGuestMemory};
use launch::health::{HealthPage, QueueHealth};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::EventSet;

use crate::config::Disk;
use crate::io::{Io, Op};
use crate::request::Status;
use crate::worker::Worker;

/// The configuration space that may be asked for; beyond the device's own it reads as zeroes.
const CONFIG_MAX_BYTES: usize = 256;

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
    memory: SharedGuestMemory,
    memory_generation: AtomicU32,
    features: AtomicU64,
}

impl Shared {
    /// What a device starts with: no memory, no features.
    pub fn new(disk: Disk, health: &'static HealthPage, after_crash: bool) -> Arc<Self> {
        Arc::new(Self {
            disk,
            after_crash,
            ping: AtomicU32::new(0),
            health,
            memory: SharedGuestMemory::new(GuestMemory::new()),
            memory_generation: AtomicU32::new(0),
            features: AtomicU64::new(0),
        })
    }

    /// Guest memory as it is now.
    pub fn memory(&self) -> Arc<GuestMemory> {
        self.memory.memory().into_inner()
    }

    /// A number that is another one after guest memory has changed.
    pub fn memory_generation(&self) -> u32 {
        self.memory_generation.load(Acquire)
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

    /// The part of the health page that belongs to a queue.
    pub fn health(&self, queue: u16) -> &QueueHealth {
        &self.health.queues[usize::from(queue) % launch::health::QUEUES]
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
    seats: Vec<Seat>,
    pub(crate) gate: Gate,
    /// Whether the protocol thread has been at the gate.
    protocol_came: AtomicBool,
}

#[derive(Debug)]
struct Seat {
    worker: Mutex<Worker>,
    /// Notified when the worker has done something.
    progress: Condvar,
    /// The ring, once the worker has seen it.
    vring: Mutex<Option<Vring>>,
    /// Readable when the worker is to show that it lives.
    bell: EventFd,
    /// Whether the worker has been at the gate.
    came: AtomicBool,
}

impl Device {
    /// A device with these workers, one for each queue.
    pub fn new(shared: Arc<Shared>, workers: Vec<Worker>) -> io::Result<Arc<Self>> {
        let seats = workers.into_iter().map(|worker| {
            Ok(Seat {
                worker: Mutex::new(worker),
                progress: Condvar::new(),
                vring: Mutex::new(None),
                bell: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
                came: AtomicBool::new(false),
            })
        });
        let seats = seats.collect::<io::Result<_>>()?;
        Ok(Arc::new(Self {
            shared,
            seats,
            gate: Gate::default(),
            protocol_came: AtomicBool::new(false),
        }))
    }

    /// Guest memory, for the daemon that will fill it.
    pub fn memory(&self) -> SharedGuestMemory {
        self.shared.memory.clone()
    }

    /// Lets each worker hear of completions and of the bell.
    pub fn watch(&self, daemon: &VhostUserDaemon<Arc<Self>>) -> io::Result<()> {
        let events = self.events();
        for (seat, handler) in self.seats.iter().zip(daemon.get_epoll_handlers()) {
            let fd = lock(&seat.worker).engine().as_fd().as_raw_fd();
            handler.register_listener(fd, EventSet::IN, u64::from(events.completion))?;
            let fd = seat.bell.as_fd().as_raw_fd();
            handler.register_listener(fd, EventSet::IN, u64::from(events.bell))?;
        }
        Ok(())
    }

    /// Asks every worker to answer `ping`.
    pub fn ping(&self, ping: u32) {
        self.shared.ping.store(ping, Relaxed);
        for seat in &self.seats {
            let _ = seat.bell.write(1);
        }
    }

    /// Once every thread has started and waits, does what confines them all, and lets them go on. If
    /// the frontend hangs up before that, they wait for ever.
    pub(crate) fn confine<E>(&self, install: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // The workers, the protocol thread and the one that waits for its end.
        if self.gate.wait_for(u32::from(self.shared.disk.queues) + 2) {
            install()?;
            self.gate.open();
        }
        Ok(())
    }

    /// Takes nothing more and waits until nothing is in flight: the frontend is gone.
    pub fn close(&self) {
        for seat in &self.seats {
            lock(&seat.worker).close();
        }
        self.drain();
    }

    fn drain(&self) {
        self.seats.iter().for_each(Seat::drain);
    }

    /// The protocol thread, the first time it does anything for a frontend.
    fn enter(&self) {
        self.gate.pass(|| !self.protocol_came.swap(true, Relaxed));
    }

    /// The numbers of events: those of the queues come first, the next is the event loop's own.
    fn events(&self) -> Events {
        let queues = self.shared.disk.queues;
        Events {
            completion: queues + 1,
            bell: queues + 2,
        }
    }
}

impl Seat {
    /// Waits until nothing of this queue is in flight; its worker sees to that.
    fn drain(&self) {
        let Some(vring) = lock(&self.vring).clone() else {
            return;
        };
        let busy = |worker: &mut Worker| !worker.is_drained(&vring);
        drop(self.progress.wait_while(lock(&self.worker), busy));
    }
}

struct Events {
    completion: u16,
    bell: u16,
}

/// A worker that panicked has ended the process, so no lock is ever poisoned outside tests.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.enter();
        self.shared.disk.features()
    }

    fn acked_features(&self, features: u64) {
        self.shared.features.store(features, Relaxed);
        // A worker looks at the features when it attaches to a ring that starts later.
        self.shared.memory_generation.fetch_add(1, AcqRel);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.enter();
        Disk::protocol_features()
    }

    fn reset_device(&self) {
        self.drain();
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.enter();
        let (offset, size) = (offset as usize, size as usize);
        if offset.saturating_add(size) > CONFIG_MAX_BYTES {
            return Vec::new();
        }
        let space = self.shared.disk.config();
        let zeroes = std::iter::repeat(0);
        space
            .into_iter()
            .chain(zeroes)
            .skip(offset)
            .take(size)
            .collect()
    }

    fn update_memory(&self, _memory: SharedGuestMemory) -> io::Result<()> {
        self.enter();
        self.shared.memory_generation.fetch_add(1, AcqRel);
        // Asleep workers have nothing in flight that would notice; they look before they take.
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.shared.disk.queues)
            .map(|queue| 1 << queue)
            .collect()
    }

    /// GET_VRING_BASE: the ring is stopped already; what was taken from it is completed.
    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        let Some(seat) = self.seats.get(queue as usize) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        seat.drain();
        Ok(())
    }

    /// Never an error: that would end the worker for good.
    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        thread: usize,
    ) -> io::Result<()> {
        let (Some(seat), Some(vring)) = (self.seats.get(thread), vrings.first()) else {
            return Ok(());
        };
        if event == self.events().bell {
            let _ = seat.bell.read();
        }
        self.gate.pass(|| !seat.came.swap(true, Relaxed));
        lock(&seat.vring).get_or_insert_with(|| vring.clone());
        lock(&seat.worker).run(vring);
        seat.progress.notify_all();
        Ok(())
    }
}
