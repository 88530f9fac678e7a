// SPDX-License-Identifier: Apache-2.0
//! The device as vhost-user-backend sees it: answers the frontend on the protocol thread and hands
//! each event of a queue to its worker.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use backend::SharedGuestMemory;
use backend::gate::Gate;
use backend::vring::Vring;
use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon};
use vmm_sys_util::epoll::EventSet;

use crate::config::Nic;
use crate::worker::Worker;

mod shared;

pub use shared::Shared;

/// The most queues of one worker: receive, transmit, control.
pub const SLOTS: usize = 3;
/// The configuration space that may be asked for; beyond the device's own it reads as zeroes.
const CONFIG_MAX_BYTES: usize = 256;

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
    seats: Vec<Seat>,
    pub(crate) gate: Gate,
    /// Whether the protocol thread has been at the gate.
    protocol_came: AtomicBool,
}

#[derive(Debug)]
struct Seat {
    worker: Mutex<Worker>,
    progress: Progress,
    /// Its rings, once it has seen them.
    vrings: OnceLock<Vec<Vring>>,
    /// Readable when the worker is to look around and to show that it lives.
    bell: EventFd,
    /// Whether the worker has been at the gate.
    came: AtomicBool,
}

impl Device {
    /// A device on its taps, one worker for each.
    pub fn new(shared: Arc<Shared>, poll_us: u32) -> io::Result<Arc<Self>> {
        let seats = (0..shared.nic.pairs).map(|pair| {
            Ok(Seat {
                worker: Mutex::new(Worker::new(pair, shared.clone(), poll_us)),
                progress: Progress::default(),
                vrings: OnceLock::new(),
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
        self.shared.guest_memory()
    }

    /// Lets each worker hear of its tap and of the bell.
    pub fn watch(&self, daemon: &VhostUserDaemon<Arc<Self>>) -> io::Result<()> {
        let (tap_event, bell_event) = self.events();
        for ((pair, seat), handler) in (0..).zip(&self.seats).zip(daemon.get_epoll_handlers()) {
            let fd = self.shared.tap(pair).as_raw_fd();
            // Edges: a tap that is readable and cannot be read from now wakes nobody.
            let edges = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
            handler.register_listener(fd, edges, u64::from(tap_event))?;
            let fd = seat.bell.as_fd().as_raw_fd();
            handler.register_listener(fd, EventSet::IN, u64::from(bell_event))?;
        }
        Ok(())
    }

    /// Asks every worker to answer `ping`.
    pub fn ping(&self, ping: u32) {
        self.shared.ping.store(ping, Relaxed);
        self.seats.iter().for_each(Seat::ring);
    }

    /// The link goes up, or down.
    pub fn set_link(&self, up: bool) {
        self.shared.set_link(up);
        self.seats.iter().for_each(Seat::ring);
    }

    /// Once every thread has started and waits, does what confines them all, and lets them go on. If
    /// the frontend hangs up before that, they wait for ever.
    pub(crate) fn confine<E>(&self, install: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // The workers, the protocol thread and the one that waits for its end.
        if self.gate.wait_for(u32::from(self.shared.nic.pairs) + 2) {
            install()?;
            self.gate.open();
        }
        Ok(())
    }

    /// The protocol thread, the first time it does anything for a frontend.
    fn enter(&self) {
        self.gate.pass(|| !self.protocol_came.swap(true, Relaxed));
    }

    /// The numbers of events: those of the queues come first, the next is the event loop's own.
    fn events(&self) -> (u16, u16) {
        let queues = self.shared.nic.queues();
        (queues + 1, queues + 2)
    }
}

impl Seat {
    fn ring(&self) {
        let _ = self.bell.write(1);
    }

    /// Waits until the worker has followed what was done to a ring.
    fn settle(&self, slot: usize) {
        if let Some(vring) = self.vrings.get().and_then(|vrings| vrings.get(slot)) {
            self.ring();
            self.progress.wait(slot, vring);
        }
    }
}

/// A worker that panicked has ended the process, so no lock is ever poisoned outside tests.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.enter();
        self.shared.nic.features()
    }

    fn acked_features(&self, features: u64) {
        self.shared.set_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.enter();
        Nic::protocol_features()
    }

    fn reset_device(&self) {
        for seat in &self.seats {
            (0..SLOTS).for_each(|slot| seat.settle(slot));
        }
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.enter();
        let (offset, size) = (offset as usize, size as usize);
        if offset.saturating_add(size) > CONFIG_MAX_BYTES {
            return Vec::new();
        }
        let space = self.shared.nic.config(self.shared.settings().1.link_up);
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
        // Asleep workers look before they touch anything.
        self.shared.memory_changed();
        Ok(())
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
        let seat = self.seats.get(usize::from(pair));
        seat.ok_or(io::ErrorKind::InvalidInput)?.settle(slot);
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
        let Some(seat) = self.seats.get(thread) else {
            return Ok(());
        };
        if event == self.events().1 {
            let _ = seat.bell.read();
        }
        self.gate.pass(|| !seat.came.swap(true, Relaxed));
        seat.vrings.get_or_init(|| vrings.to_vec());
        lock(&seat.worker).run(vrings, &seat.progress);
        Ok(())
    }
}
