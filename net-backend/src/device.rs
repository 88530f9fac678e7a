// SPDX-License-Identifier: Apache-2.0
//! The device as vhost-user-backend sees it: answers the frontend on the protocol thread and hands
//! each event of a queue to its worker.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use device_backend::start_barrier::{Participant, StartBarrier};
use device_backend::vring::Vring;
use device_backend::wake_event::{Events, WakeEvent};
use device_backend::{SharedGuestMemory, config_space, lock};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};
use vmm_sys_util::epoll::EventSet;

use crate::config::Nic;
use crate::worker::Worker;

mod shared;

pub use shared::Shared;

/// The most queues of one worker: receive, transmit, control.
pub const SLOTS: usize = 3;

/// How far a worker has followed what the frontend does.
#[derive(Debug, Default)]
pub struct Progress {
    followed: Mutex<[Option<u32>; SLOTS]>,
    changed: Condvar,
}

impl Progress {
    /// The worker has followed its rings up to these generations.
    pub fn settle(&self, followed: [Option<u32>; SLOTS]) {
        *lock(&self.followed) = followed;
        self.changed.notify_all();
    }

    /// Waits until the worker has followed a ring up to where it is now.
    fn wait(&self, slot: usize, vring: &Vring) {
        let behind = |followed: &mut [Option<u32>; SLOTS]| {
            followed.get(slot).copied().flatten() != Some(vring.generation())
        };
        drop(self.changed.wait_while(lock(&self.followed), behind));
    }
}

/// The device: one worker for each pair of queues.
#[derive(Debug)]
pub struct Device {
    shared: Arc<Shared>,
    threads: Vec<QueueThread>,
    barrier: StartBarrier,
}

#[derive(Debug)]
struct QueueThread {
    worker: Mutex<Worker>,
    progress: Progress,
    /// Its rings, once it has seen them.
    vrings: OnceLock<Vec<Vring>>,
    /// Readable when the worker is to look around and to show that it lives.
    wake: WakeEvent,
}

impl Device {
    /// A device on its taps, one worker for each.
    pub fn new(shared: Arc<Shared>, poll_us: u32) -> io::Result<Arc<Self>> {
        let threads = (0..shared.nic.pairs).map(|pair| {
            Ok(QueueThread {
                worker: Mutex::new(Worker::new(pair, shared.clone(), poll_us)),
                progress: Progress::default(),
                vrings: OnceLock::new(),
                wake: WakeEvent::new()?,
            })
        });
        let threads = threads.collect::<io::Result<Vec<_>>>()?;
        Ok(Arc::new(Self {
            shared,
            barrier: StartBarrier::new(threads.len()),
            threads,
        }))
    }

    fn events(&self) -> Events {
        Events::of(self.shared.nic.queues())
    }
}

impl device_backend::serve::Device for Device {
    fn memory(&self) -> SharedGuestMemory {
        self.shared.memory.shared()
    }

    /// The taps.
    fn watch(&self, daemon: &VhostUserDaemon<Arc<Self>>) -> io::Result<()> {
        // Edges: a tap that is readable and cannot be read from now wakes nobody.
        let edges = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        for ((pair, thread), handler) in (0..).zip(&self.threads).zip(daemon.get_epoll_handlers()) {
            let frames = (self.shared.tap(pair), edges);
            self.events().watch(&handler, frames, &thread.wake)?;
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

    fn set_link(&self, up: bool) {
        self.shared.set_link(up);
        self.threads.iter().for_each(|thread| thread.wake.notify());
    }
}

impl QueueThread {
    /// Waits until the worker has followed what was done to a ring.
    fn settle(&self, slot: usize) {
        if let Some(vring) = self.vrings.get().and_then(|vrings| vrings.get(slot)) {
            self.wake.notify();
            self.progress.wait(slot, vring);
        }
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        usize::from(self.shared.nic.queues())
    }

    fn max_queue_size(&self) -> usize {
        usize::from(self.shared.nic.queue_size)
    }

    fn features(&self) -> u64 {
        self.barrier.pass(Participant::Protocol);
        self.shared.nic.features()
    }

    fn acked_features(&self, features: u64) {
        self.shared.set_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.barrier.pass(Participant::Protocol);
        Nic::protocol_features()
    }

    fn reset_device(&self) {
        for thread in &self.threads {
            (0..SLOTS).for_each(|slot| thread.settle(slot));
        }
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.barrier.pass(Participant::Protocol);
        let space = self.shared.nic.config(self.shared.settings().1.link_up);
        config_space::part(space, offset, size)
    }

    fn update_memory(&self, _memory: SharedGuestMemory) -> io::Result<()> {
        self.barrier.pass(Participant::Protocol);
        // Asleep workers look before they touch anything.
        self.shared.memory.replaced()
    }

    /// A worker has its pair, and the first one the last queue too.
    fn queues_per_thread(&self) -> Vec<u64> {
        let pairs = self.shared.nic.pairs;
        (0..pairs)
            .map(|pair| {
                let control = if pair == 0 { 1 << (2 * pairs) } else { 0 };
                0b11 << (2 * pair) | control
            })
            .collect()
    }

    /// GET_VRING_BASE: the ring is stopped already; what was taken from it and not used is left to
    /// who comes next.
    fn stop_vring(&self, queue: u32) -> io::Result<()> {
        let (pair, slot) = match u16::try_from(queue) {
            Ok(queue) if queue == 2 * self.shared.nic.pairs => (0, 2),
            Ok(queue) => (queue / 2, usize::from(queue % 2)),
            Err(_) => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let thread = self.threads.get(usize::from(pair));
        thread.ok_or(io::ErrorKind::InvalidInput)?.settle(slot);
        Ok(())
    }

    /// Never an error: that would end the worker for good.
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
