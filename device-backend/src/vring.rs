// SPDX-License-Identifier: Apache-2.0
//! A vring with a generation counter, so that its worker sees changes without taking a lock.
//!
//! The protocol thread, which runs vhost-user-backend's handler, writes it; the worker that owns
//! the queue reads it. Wraps that crate's ring state, which the protocol handler needs, and keeps
//! what it does not give back: the call and error eventfds.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use vhost_user_backend::{VringRwLock, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as QueueError, QueueT};
use vm_memory::GuestAddress;

use crate::SharedGuestMemory;
use crate::ring::Layout;

/// A vring. All clones are the same ring.
#[derive(Clone)]
pub struct Vring {
    state: VringRwLock<SharedGuestMemory>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    generation: AtomicU32,
    call: Mutex<Option<Arc<File>>>,
    error: Mutex<Option<Arc<File>>>,
}

/// The frontend's settings of a vring at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Whether the worker may take requests: the ring is started and enabled.
    pub running: bool,
    /// The addresses and size.
    pub layout: Layout,
    /// The index of the available entry to take next.
    pub next_avail: u16,
    /// The eventfd that interrupts the driver.
    pub call: Option<Arc<File>>,
    /// The eventfd that reports a broken queue to the frontend.
    pub error: Option<Arc<File>>,
}

impl Vring {
    /// The generation: changes with every change of the ring.
    pub fn generation(&self) -> u32 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// The ring as it is now, and its generation.
    pub fn snapshot(&self) -> (u32, Snapshot) {
        // Load the generation first: a change in between then causes one check too many, never a
        // missed one.
        let generation = self.generation();
        let state = self.state.get_ref();
        let queue = state.get_queue();
        let parts = queue.state();
        let snapshot = Snapshot {
            running: queue.ready() && state.is_enabled(),
            layout: Layout {
                size: queue.size(),
                desc: GuestAddress(parts.desc_table),
                avail: GuestAddress(parts.avail_ring),
                used: GuestAddress(parts.used_ring),
                event_idx: parts.event_idx_enabled,
            },
            next_avail: queue.next_avail(),
            call: get(&self.shared.call),
            error: get(&self.shared.error),
        };
        (generation, snapshot)
    }

    /// Stores how far the queue got, for GET_VRING_BASE. Does not count as a change.
    pub fn store_next_avail(&self, next_avail: u16) {
        self.state.set_queue_next_avail(next_avail);
    }

    /// Counts a change of something outside the ring's own state.
    pub fn touch(&self) {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// Adds one to an eventfd of the peer. Errors are the peer's own problem: it may be full or closed.
pub fn notify(eventfd: &File) {
    let mut eventfd = eventfd;
    let _ = eventfd.write(&1_u64.to_ne_bytes());
}

fn get(slot: &Mutex<Option<Arc<File>>>) -> Option<Arc<File>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set(slot: &Mutex<Option<Arc<File>>>, file: Option<File>) {
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = file.map(Arc::new);
}

impl std::fmt::Debug for Vring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.snapshot().fmt(f)
    }
}

impl<'a> VringStateGuard<'a, SharedGuestMemory> for Vring {
    type G = RwLockReadGuard<'a, VringState<SharedGuestMemory>>;
}

impl<'a> VringStateMutGuard<'a, SharedGuestMemory> for Vring {
    type G = RwLockWriteGuard<'a, VringState<SharedGuestMemory>>;
}

impl VringT<SharedGuestMemory> for Vring {
    fn new(memory: SharedGuestMemory, max_queue_size: u16) -> Result<Self, QueueError> {
        Ok(Self {
            state: VringRwLock::new(memory, max_queue_size)?,
            shared: Arc::default(),
        })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, SharedGuestMemory>>::G {
        self.state.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, SharedGuestMemory>>::G {
        self.state.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.state.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.state.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.state.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.state.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.state.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.state.set_enabled(enabled);
        self.touch();
    }

    fn set_queue_info(&self, desc: u64, avail: u64, used: u64) -> Result<(), QueueError> {
        self.state.set_queue_info(desc, avail, used)?;
        self.touch();
        Ok(())
    }

    fn queue_next_avail(&self) -> u16 {
        self.state.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.state.set_queue_next_avail(base);
        self.touch();
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.state.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.state.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.state.set_queue_size(num);
        self.touch();
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.state.set_queue_event_idx(enabled);
        self.touch();
    }

    fn set_queue_ready(&self, ready: bool) {
        self.state.set_queue_ready(ready);
        self.touch();
    }

    fn set_kick(&self, file: Option<File>) {
        self.state.set_kick(file);
        self.touch();
    }

    /// Whether the worker may use the ring. A kick that is already gone when it is read is a
    /// frontend's mistake or attack, no reason to end the worker.
    fn read_kick(&self) -> io::Result<bool> {
        let enabled = self.state.get_ref().is_enabled();
        Ok(self.state.read_kick().unwrap_or(enabled))
    }

    fn set_call(&self, file: Option<File>) {
        let kept = file.as_ref().and_then(|file| file.try_clone().ok());
        set(&self.shared.call, kept);
        self.state.set_call(file);
        self.touch();
    }

    fn set_err(&self, file: Option<File>) {
        let kept = file.as_ref().and_then(|file| file.try_clone().ok());
        set(&self.shared.error, kept);
        self.state.set_err(file);
        self.touch();
    }
}
