// SPDX-License-Identifier: Apache-2.0
//! A device as vhost-user-backend sees it: answers the frontend on the protocol thread and
//! dispatches the events of a queue to its worker. A [`Model`] describes the device type and a
//! [`QueueWorker`] processes its queues.

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

/// A device's type and state, which its workers share.
pub trait Model: Debug + Send + Sync + 'static {
    /// The number of its virtqueues.
    fn queues(&self) -> u16;

    /// The most entries of a queue.
    fn queue_size(&self) -> u16;

    /// The device features.
    fn features(&self) -> u64;

    /// Called with the features that the driver has acknowledged.
    fn set_features(&self, features: u64);

    /// The vhost-user protocol features.
    fn protocol_features(&self) -> VhostUserProtocolFeatures;

    /// The configuration space.
    fn config(&self) -> Vec<u8>;

    /// Guest memory.
    fn memory(&self) -> &Memory;

    /// The last ping; the workers store it as their heartbeat in the health page.
    fn ping(&self) -> &AtomicU32;

    /// Which worker owns a queue, and the queue's position among that worker's queues.
    fn worker_of(&self, queue: u16) -> (usize, usize);

    /// Passes the workers' wake events, by which the workers wake each other.
    fn set_wake_events(&self, _wake_events: Vec<Arc<WakeEvent>>) {}

    /// Sets the link up or down. False if the device has no link.
    fn set_link(&self, _up: bool) -> bool {
        false
    }

    /// The power button has been pressed so often since the vmm's start. False if the device is no
    /// button.
    fn press(&self, _count: u32) -> bool {
        false
    }

    /// Called when the supervisor knows whether writes of an earlier backend were lost. False if the
    /// device does not wait for that.
    fn synced(&self, _lost: bool) -> bool {
        false
    }
}

/// Serves one or more queues on a thread of its own.
pub trait QueueWorker: Debug + Send + Sized + 'static {
    /// Its device.
    type Model: Model;
    /// How far it has followed the frontend's changes.
    type Progress: Debug + Default + Send + Sync;

    /// The descriptor of its engine, if it has one, and the events on it that wake the worker.
    fn engine(&self) -> Option<(BorrowedFd<'_>, EventSet)>;

    /// Serves its queues until there is nothing to do.
    ///
    /// Returns no error, which would end the thread for good; a permanent failure ends the process.
    fn run(&mut self, vrings: &[Vring], progress: &Self::Progress);

    /// Waits until the worker has followed a change of one of its rings.
    fn settle(thread: &QueueThread<Self>, slot: usize);

    /// The frontend is gone: takes no more requests and completes those in flight.
    fn close(_threads: &[QueueThread<Self>]) {}
}

/// A worker and what other threads need to reach it.
#[derive(Debug)]
pub struct QueueThread<W: QueueWorker> {
    /// The worker.
    pub worker: Mutex<W>,
    /// How far it has followed the frontend.
    pub progress: W::Progress,
    /// Its rings, set at its first event.
    vrings: OnceLock<Vec<Vring>>,
    /// Readable when the worker must check for changes and store its heartbeat.
    pub wake: Arc<WakeEvent>,
}

impl<W: QueueWorker> QueueThread<W> {
    /// One of its rings, if it has had an event.
    pub fn vring(&self, slot: usize) -> Option<&Vring> {
        self.vrings.get()?.get(slot)
    }

    fn settle_all(&self) {
        let slots = self.vrings.get().map_or(0, Vec::len);
        (0..slots).for_each(|slot| W::settle(self, slot));
    }
}

/// A device with one thread for each worker.
#[derive(Debug)]
pub struct QueueDevice<W: QueueWorker> {
    model: Arc<W::Model>,
    threads: Vec<QueueThread<W>>,
    barrier: StartBarrier,
}

impl<W: QueueWorker> QueueDevice<W> {
    /// A device with the given workers.
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

    fn press(&self, count: u32) {
        if self.model.press(count) {
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
        // Sleeping workers check the generation before they access guest memory.
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

    /// GET_VRING_BASE. vhost-user-backend has already stopped the ring.
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
