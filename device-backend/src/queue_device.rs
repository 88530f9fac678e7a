// SPDX-License-Identifier: Apache-2.0
//! A device as vhost-user-backend sees it, whatever its kind: answers the frontend on the protocol
//! thread and hands each event of a queue to its worker. What differs is a [`Model`], what the device
//! is, and a [`QueueWorker`], what is done with its queues.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, OnceLock};

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};
use vmm_sys_util::epoll::EventSet;

use crate::memory::Memory;
use crate::serve::Device;
use crate::start_barrier::{Participant, StartBarrier};
use crate::vring::Vring;
use crate::wake_event::{Events, WakeEvent};
use crate::{SharedGuestMemory, config_space, lock};

/// What a device is: its workers share it.
pub trait Model: Debug + Send + Sync + 'static {
    /// The number of its queues.
    fn queues(&self) -> u16;

    /// The most entries of a queue.
    fn queue_size(&self) -> u16;

    /// The feature bits that it offers.
    fn features(&self) -> u64;

    /// The driver has acknowledged these.
    fn set_features(&self, features: u64);

    /// The features of the vhost-user protocol that it offers.
    fn protocol_features(&self) -> VhostUserProtocolFeatures;

    /// The configuration space.
    fn config(&self) -> Vec<u8>;

    /// Guest memory.
    fn memory(&self) -> &Memory;

    /// The last ping; workers answer it in the health page.
    fn ping(&self) -> &AtomicU32;

    /// Which worker has a queue, and the how-manieth of its queues it is.
    fn worker_of(&self, queue: u16) -> (usize, usize);

    /// What wakes its workers, which wake each other by it.
    fn set_wake_events(&self, _wake_events: Vec<Arc<WakeEvent>>) {}

    /// The link goes up, or down. Whether it has one.
    fn set_link(&self, _up: bool) -> bool {
        false
    }

    /// It is known whether writes of a predecessor were lost. Whether it waits for that.
    fn synced(&self, _lost: bool) -> bool {
        false
    }
}

/// What serves one or several queues, on a thread of its own.
pub trait QueueWorker: Debug + Send + Sized + 'static {
    /// The device that it is of.
    type Model: Model;
    /// How it tells how far it has followed what the frontend does.
    type Progress: Debug + Default + Send + Sync;

    /// What else wakes it, and by which events.
    fn engine(&self) -> (BorrowedFd<'_>, EventSet);

    /// Serves its queues until there is nothing to do.
    ///
    /// Never an error: that would end the thread for good. What fails for good ends the process.
    fn run(&mut self, vrings: &[Vring], progress: &Self::Progress);

    /// Waits until the worker has followed what was done to one of its rings.
    fn settle(thread: &QueueThread<Self>, slot: usize);

    /// The frontend is gone: takes nothing more and completes what is in flight.
    fn close(_threads: &[QueueThread<Self>]) {}
}

/// A worker, and how it is reached.
#[derive(Debug)]
pub struct QueueThread<W: QueueWorker> {
    /// The worker.
    pub worker: Mutex<W>,
    /// How far it is.
    pub progress: W::Progress,
    /// Its rings, once it has seen them.
    vrings: OnceLock<Vec<Vring>>,
    /// Readable when the worker is to look around and to show that it lives.
    pub wake: Arc<WakeEvent>,
}

impl<W: QueueWorker> QueueThread<W> {
    /// One of its rings, if it has seen them.
    pub fn vring(&self, slot: usize) -> Option<&Vring> {
        self.vrings.get()?.get(slot)
    }

    fn settle_all(&self) {
        let slots = self.vrings.get().map_or(0, Vec::len);
        (0..slots).for_each(|slot| W::settle(self, slot));
    }
}

/// The device: one thread for each worker.
#[derive(Debug)]
pub struct QueueDevice<W: QueueWorker> {
    model: Arc<W::Model>,
    threads: Vec<QueueThread<W>>,
    barrier: StartBarrier,
}

impl<W: QueueWorker> QueueDevice<W> {
    /// A device with these workers.
    pub fn new(
        model: Arc<W::Model>,
        workers: impl IntoIterator<Item = W>,
    ) -> io::Result<Arc<Self>> {
        let threads = workers.into_iter().map(|worker| {
            Ok(QueueThread {
                worker: Mutex::new(worker),
                progress: W::Progress::default(),
                vrings: OnceLock::new(),
                wake: Arc::new(WakeEvent::new()?),
            })
        });
        let threads = threads.collect::<io::Result<Vec<QueueThread<W>>>>()?;
        model.set_wake_events(threads.iter().map(|thread| thread.wake.clone()).collect());
        Ok(Arc::new(Self {
            model,
            barrier: StartBarrier::new(threads.len()),
            threads,
        }))
    }

    fn events(&self) -> Events {
        Events::of(self.model.queues())
    }

    fn wake_all(&self) {
        self.threads.iter().for_each(|thread| thread.wake.notify());
    }
}

impl<W: QueueWorker> Device for QueueDevice<W> {
    fn memory(&self) -> SharedGuestMemory {
        self.model.memory().shared()
    }

    fn watch(&self, daemon: &VhostUserDaemon<Arc<Self>>) -> io::Result<()> {
        for (thread, handler) in self.threads.iter().zip(daemon.get_epoll_handlers()) {
            let worker = lock(&thread.worker);
            self.events()
                .watch(&handler, worker.engine(), &thread.wake)?;
        }
        Ok(())
    }

    fn barrier(&self) -> &StartBarrier {
        &self.barrier
    }

    fn ping(&self, ping: u32) {
        self.model.ping().store(ping, Relaxed);
        self.wake_all();
    }

    fn set_link(&self, up: bool) {
        if self.model.set_link(up) {
            self.wake_all();
        }
    }

    fn synced(&self, lost: bool) {
        if self.model.synced(lost) {
            self.wake_all();
        }
    }

    fn close(&self) {
        W::close(&self.threads);
    }
}

impl<W: QueueWorker> VhostUserBackend for QueueDevice<W> {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        usize::from(self.model.queues())
    }

    fn max_queue_size(&self) -> usize {
        usize::from(self.model.queue_size())
    }

    fn features(&self) -> u64 {
        self.barrier.pass(Participant::Protocol);
        self.model.features()
    }

    fn acked_features(&self, features: u64) {
        self.model.set_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.barrier.pass(Participant::Protocol);
        self.model.protocol_features()
    }

    fn reset_device(&self) {
        self.threads.iter().for_each(QueueThread::settle_all);
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.barrier.pass(Participant::Protocol);
        config_space::part(self.model.config(), offset, size)
    }

    fn update_memory(&self, _memory: SharedGuestMemory) -> io::Result<()> {
        self.barrier.pass(Participant::Protocol);
        // Asleep workers look before they touch anything.
        self.model.memory().replaced()
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        let mut masks = vec![0; self.threads.len()];
        for queue in 0..self.model.queues() {
            if let Some(mask) = masks.get_mut(self.model.worker_of(queue).0) {
                *mask |= 1 << queue;
            }
        }
        masks
    }

    /// GET_VRING_BASE: the ring is stopped already.
    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        let known = u16::try_from(queue).ok();
        let known = known.filter(|queue| *queue < self.model.queues());
        let (worker, slot) = self
            .model
            .worker_of(known.ok_or(io::ErrorKind::InvalidInput)?);
        let thread = self.threads.get(worker);
        W::settle(thread.ok_or(io::ErrorKind::InvalidInput)?, slot);
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        vrings: &[Vring],
        number: usize,
    ) -> io::Result<()> {
        let Some(thread) = self.threads.get(number) else {
            return Ok(());
        };
        if event == self.events().wake {
            thread.wake.clear();
        }
        self.barrier.pass(Participant::Worker(number));
        thread.vrings.get_or_init(|| vrings.to_vec());
        lock(&thread.worker).run(vrings, &thread.progress);
        Ok(())
    }
}
