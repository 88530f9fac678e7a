// SPDX-License-Identifier: Apache-2.0
//! A virtqueue as its worker serves it: follows what the frontend changes about the ring or the
//! memory, and stops where the guest breaks the rules.
//!
//! Every queue of a network card is served strictly in order, so that what has been used says what
//! comes next: whoever serves the queue later begins at the used index, and needs nothing else.

use std::sync::Arc;

use device_backend::GuestMemory;
use device_backend::chain::ChainError;
use device_backend::ring::{Ring, RingError};
use device_backend::vring::{Snapshot, Vring, notify};

use crate::shared::Shared;

/// The guest broke the queue: it cannot be used until its device is reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueFault {
    /// Its ring.
    #[error("the guest broke the queue")]
    Ring(#[from] RingError),
    /// A chain of it.
    #[error("the guest made a malformed chain at head {0}")]
    Chain(u16, #[source] ChainError),
    /// A chain of it has buffers that nothing can be put into.
    #[error("the guest offered a chain at head {0} that nothing fits into")]
    Useless(u16),
}

/// What has become of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing, or nothing that matters to who serves it.
    None,
    /// It is another one now, or there is none.
    Moved,
}

/// A ring that is being served.
#[derive(Debug)]
pub struct Serving {
    /// The device's half of it.
    pub ring: Ring,
    /// The memory that it and its buffers are in.
    pub memory: Arc<GuestMemory>,
    snapshot: Snapshot,
    memory_generation: u32,
}

impl Serving {
    /// Shows the driver what was used, without a call.
    pub fn publish(&mut self) {
        self.ring.publish();
    }

    /// Calls the driver, if it wants to be called about what was published.
    pub fn call(&mut self) {
        if self.ring.needs_call()
            && let Some(call) = &self.snapshot.call
        {
            notify(call);
        }
    }
}

/// One queue's place.
#[derive(Debug, Default)]
pub struct QueueState {
    serving: Option<Serving>,
    broken: bool,
    /// The generations of ring and memory that were followed.
    seen: Option<(u32, u32)>,
}

impl QueueState {
    /// The ring, if it may be used.
    pub fn serving(&mut self) -> Option<&mut Serving> {
        self.serving.as_mut().filter(|_| !self.broken)
    }

    /// Whether there is a ring that may be used.
    pub fn is_running(&self) -> bool {
        self.serving.is_some() && !self.broken
    }

    /// The generation of the ring that was followed last.
    pub fn seen_ring(&self) -> Option<u32> {
        self.seen.map(|(ring, _)| ring)
    }

    /// Follows what the frontend has changed. Of what was taken from the ring, the last `unused`
    /// were not used; they are left to who comes next.
    pub fn follow(
        &mut self,
        vring: &Vring,
        shared: &Shared,
        unused: u16,
    ) -> Result<Change, QueueFault> {
        if self.seen == Some((vring.generation(), shared.memory.generation())) {
            return Ok(Change::None);
        }
        // The ring before the memory: the frontend gives the memory first, and a ring that was found
        // running is not to be looked for in what was there before.
        let (generation, snapshot) = vring.snapshot();
        let memory_generation = shared.memory.generation();
        let memory = shared.memory.now();
        self.seen = Some((generation, memory_generation));
        if let Some(serving) = &mut self.serving {
            let same = serving.memory_generation == memory_generation
                && serving.snapshot.layout == snapshot.layout;
            if snapshot.running && same {
                serving.snapshot = snapshot;
                return Ok(Change::None);
            }
            vring.store_next_avail(serving.ring.next_avail().wrapping_sub(unused));
            self.serving = None;
        }
        self.broken = false;
        if !snapshot.running {
            return Ok(Change::Moved);
        }
        // With what was just stored.
        let (_, snapshot) = vring.snapshot();
        match Ring::attach(&memory, snapshot.layout, snapshot.next_avail) {
            Ok(ring) => {
                self.serving = Some(Serving {
                    ring,
                    memory,
                    snapshot,
                    memory_generation,
                });
                Ok(Change::Moved)
            }
            Err(e) => {
                self.tell(&snapshot);
                Err(e.into())
            }
        }
    }

    /// Serves no ring any more: the queue is for something else now.
    pub fn leave(&mut self) {
        *self = Self::default();
    }

    /// The guest broke the queue: it stands still from here on.
    pub fn give_up(&mut self) {
        self.broken = true;
        if let Some(serving) = &self.serving {
            self.tell(&serving.snapshot);
        }
    }

    fn tell(&self, snapshot: &Snapshot) {
        if let Some(error) = &snapshot.error {
            notify(error);
        }
    }
}
