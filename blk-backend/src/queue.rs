// SPDX-License-Identifier: Apache-2.0
//! A queue whose requests survive the process: changes ring and in-flight region in the one order
//! in which a crash between any two steps neither loses nor repeats a request.
//!
//! Runs on the worker thread that owns the queue.

use std::sync::Arc;

use device_backend::GuestMemory;
use device_backend::chain::{Chain, ChainError};
use device_backend::ring::{Layout, Ring, RingError};
use device_backend::shared_mem::SharedMem;

use crate::failpoint;
use crate::inflight::{InflightError, Region, Replay};

/// Why a queue cannot be used until the device is reset.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The guest broke the rules for the rings.
    #[error("the guest broke the queue")]
    Ring(#[from] RingError),
    /// The guest made a chain that cannot be answered.
    #[error("the guest made a malformed chain at head {0}")]
    Chain(u16, #[source] ChainError),
    /// The guest made a request without a status byte.
    #[error("the guest made a request at head {0} that cannot be answered")]
    Request(u16, #[source] crate::request::NoStatus),
    /// The guest made a head available that the device has in flight.
    #[error("the guest posted head {0} twice")]
    Twice(u16),
    /// The in-flight region cannot be trusted.
    #[error("the in-flight region is not usable")]
    Inflight(#[from] InflightError),
}

/// A queue being served.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    region: Region,
    indirect: bool,
    batch: Vec<u16>,
}

/// The parameters of [`Queue::attach`].
#[derive(Debug, Clone)]
pub struct Attach {
    /// The addresses and size, as the driver has set them.
    pub layout: Layout,
    /// The in-flight region.
    pub region: SharedMem,
    /// The available entry to take next, if the frontend knows it; otherwise the region tells.
    pub next_avail: Option<u16>,
    /// Whether the previous generation died of itself.
    pub after_crash: bool,
    /// Whether VIRTIO_F_INDIRECT_DESC was negotiated.
    pub indirect: bool,
}

impl Queue {
    /// Attaches to a queue; returns the requests that an earlier generation had in flight, oldest
    /// first.
    pub fn attach(
        memory: &Arc<GuestMemory>,
        attach: Attach,
    ) -> Result<(Self, Vec<Replay>), QueueError> {
        let size = attach.layout.size;
        let mut ring = Ring::attach(memory, attach.layout, attach.next_avail.unwrap_or(0))?;
        // Read once, by the ring: the driver could change it between two reads.
        let used_idx = ring.next_used();
        let (region, replays) = Region::recover(attach.region, size, used_idx, attach.after_crash)?;
        if attach.next_avail.is_none() {
            let in_flight = u16::try_from(replays.len()).unwrap_or(size);
            ring.set_next_avail(used_idx.wrapping_add(in_flight));
        }
        let queue = Self {
            ring,
            region,
            indirect: attach.indirect,
            batch: Vec::new(),
        };
        Ok((queue, replays))
    }

    /// How many heads are available.
    pub fn available(&self) -> Result<u16, QueueError> {
        Ok(self.ring.available()?)
    }

    /// Takes the next head. Call [`Queue::available`] first, and only if there is one.
    pub fn fetch(&mut self) -> Result<u16, QueueError> {
        let head = self.ring.take()?;
        if self.region.is_in_flight(head) {
            return Err(QueueError::Twice(head));
        }
        failpoint::step();
        self.region.fetch(head);
        failpoint::step();
        Ok(head)
    }

    /// Collects the buffers of the chain at a head.
    pub fn walk(
        &self,
        memory: &Arc<GuestMemory>,
        head: u16,
        chain: &mut Chain,
    ) -> Result<(), QueueError> {
        chain
            .walk(&self.ring, memory, head, self.indirect)
            .map_err(|e| QueueError::Chain(head, e))
    }

    /// Records that a head is about to be parsed.
    pub fn try_out(&mut self, head: u16) {
        self.region.try_out(head);
    }

    /// Records that no request causes the end or the pause of the process that follows.
    pub fn absolve(&mut self) {
        self.region.absolve();
    }

    /// Adds a completed head to the batch, after its status is written.
    pub fn complete(&mut self, head: u16, written_bytes: u32) {
        debug_assert!(
            self.region.is_in_flight(head),
            "head {head} completes twice"
        );
        debug_assert!(!self.batch.contains(&head), "head {head} completes twice");
        self.ring.push_used(head, written_bytes);
        failpoint::step();
        self.region.link(head);
        failpoint::step();
        self.batch.push(head);
    }

    /// Publishes the batch to the driver; returns whether the driver wants a call.
    pub fn publish(&mut self) -> bool {
        if self.batch.is_empty() {
            return false;
        }
        self.ring.publish();
        failpoint::step();
        self.region.settle(&self.batch, self.ring.next_used());
        failpoint::step();
        self.batch.clear();
        self.ring.needs_call()
    }

    /// Asks for kicks. The caller must check [`Queue::available`] once more before it sleeps.
    pub fn enable_kicks(&self) {
        self.ring.enable_kicks();
    }

    /// Asks for no kicks.
    pub fn disable_kicks(&self) {
        self.ring.disable_kicks();
    }

    /// The index of the available entry to take next.
    pub fn next_avail(&self) -> u16 {
        self.ring.next_avail()
    }

    /// The published used index.
    pub fn used(&self) -> u16 {
        self.ring.next_used()
    }
}

#[cfg(test)]
mod tests;
