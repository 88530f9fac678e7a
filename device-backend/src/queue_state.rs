// SPDX-License-Identifier: Apache-2.0
//! A virtqueue as its worker thread serves it: follows the frontend's changes of the ring and the
//! memory, and stops the queue if the guest breaks the rules.
//!
//! For queues that are served strictly in order: the used index says what comes next, so the process
//! that serves the queue later starts there.

use std::sync::Arc;

use crate::GuestMemory;
use crate::chain::ChainError;
use crate::memory::Memory;
use crate::ring::{Ring, RingError};
use crate::vring::{Snapshot, Vring, notify};

/// The guest broke the queue, which cannot be used until the device is reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueFault {
    /// The ring is malformed.
    #[error("the guest broke the queue")]
    Ring(#[from] RingError),
    /// A chain is malformed.
    #[error("the guest made a malformed chain at head {0}")]
    Chain(u16, #[source] ChainError),
    /// The buffers of a chain cannot be used.
    #[error("the guest offered a chain at head {0} that nothing fits into")]
    Useless(u16),
}

/// What has happened to the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing, or nothing that matters to the worker.
    None,
    /// The ring was replaced or stopped.
    Moved,
}

/// A ring in service.
#[derive(Debug)]
pub struct Serving {
    /// The device's half of it.
    pub ring: Ring,
    /// The memory of the ring and its buffers.
    pub memory: Arc<GuestMemory>,
    snapshot: Snapshot,
    memory_generation: u32,
}

impl Serving {
    /// Publishes used entries to the driver, without a call.
    pub fn publish(&mut self) {
        self.ring.publish();
    }

    /// Calls the driver, if it wants a call for what was published.
    pub fn call(&mut self) {
        if self.ring.needs_call()
            && let Some(call) = &self.snapshot.call
        {
            notify(call);
        }
    }
}

/// The state of one queue.
#[derive(Debug, Default)]
pub struct QueueState {
    serving: Option<Serving>,
    broken: bool,
    /// The generations of ring and memory that were followed last.
    seen: Option<(u32, u32)>,
}

impl QueueState {
    /// The ring, if it can be served.
    pub fn serving(&mut self) -> Option<&mut Serving> {
        self.serving.as_mut().filter(|_| !self.broken)
    }

    /// Whether there is a ring that can be served.
    pub fn is_running(&self) -> bool {
        self.serving.is_some() && !self.broken
    }

    /// The generation of the ring that was followed last.
    pub fn seen_ring(&self) -> Option<u32> {
        self.seen.map(|(ring, _)| ring)
    }

    /// Follows the frontend's changes. The last `unused` chains that were taken from the ring were
    /// not used: they are left to the next one that serves it.
    pub fn follow(
        &mut self,
        vring: &Vring,
        memory: &Memory,
        unused: u16,
    ) -> Result<Change, QueueFault> {
        if self.seen == Some((vring.generation(), memory.generation())) {
            return Ok(Change::None);
        }
        // The ring before the memory: the frontend sets the memory first, and a ring that was found
        // running must not be looked up in the memory of before.
        let (generation, snapshot) = vring.snapshot();
        let memory_generation = memory.generation();
        let memory = memory.now();
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
        // With the index that was just stored.
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

    /// Stops serving: the queue has another role now.
    pub fn leave(&mut self) {
        *self = Self::default();
    }

    /// Stops a queue that the guest broke.
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
