// SPDX-License-Identifier: Apache-2.0
//! The requests of a queue by descriptor head, and which of them the engine has.

use std::collections::VecDeque;

use crate::io::Io;
use crate::request::StatusByte;

/// If the bounce buffers take this much, the worker takes no more requests: a guest must not decide
/// how much memory this process uses.
const BOUNCED_BYTES_MAX: u64 = 1 << 20;

/// One slot for each descriptor head; the next request at that head reuses it.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    busy: u16,
    /// The length of the bounce buffers of requests that the engine has.
    bounced_bytes: u64,
    /// Heads and times in the order in which they were taken; completed ones are dropped when they
    /// reach the front.
    order: VecDeque<(u16, u64)>,
}

/// The slot of one request.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) io: Io,
    pub(super) status: StatusByte,
    /// When the worker took it.
    pub(super) since_ns: u64,
    busy: bool,
}

impl Slots {
    /// Slots for a queue of so many descriptors.
    pub(super) fn new(size: u16) -> Self {
        let mut slots = Self::default();
        slots.slots.resize_with(usize::from(size), Slot::default);
        slots
    }

    /// The slot of a head that the engine does not have. While the engine has it, the kernel reads
    /// and writes the memory its `Io` points to, so no other code may get the slot: this is the
    /// last check against a driver or vmm that posts a head twice.
    pub(super) fn idle_at(&mut self, head: u16) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(head))?;
        (!slot.busy).then_some(slot)
    }

    /// The slot of a head that the engine has.
    pub(super) fn busy_at(&mut self, head: u16) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(head))?;
        slot.busy.then_some(slot)
    }

    /// How many requests the engine has.
    pub(super) fn busy(&self) -> u16 {
        self.busy
    }

    /// Whether the bounce buffers are at their limit.
    pub(super) fn are_full(&self) -> bool {
        self.bounced_bytes >= BOUNCED_BYTES_MAX
    }

    /// Records that the engine has the request.
    pub(super) fn start(&mut self, head: u16) {
        let slot = &mut self.slots[usize::from(head)];
        debug_assert!(!slot.busy, "head {head} starts twice");
        slot.busy = true;
        self.busy += 1;
        self.bounced_bytes += slot.io.bounced_bytes();
        self.order.push_back((head, slot.since_ns));
    }

    /// Records that the engine has completed the request.
    pub(super) fn end(&mut self, head: u16) {
        let slot = &mut self.slots[usize::from(head)];
        slot.busy = false;
        self.busy -= 1;
        self.bounced_bytes -= slot.io.bounced_bytes();
    }

    /// When the worker took the oldest request in flight; 0 if there is none.
    pub(super) fn oldest_ns(&mut self) -> u64 {
        while let Some((head, since_ns)) = self.order.front() {
            let slot = &self.slots[usize::from(*head)];
            if slot.busy && slot.since_ns == *since_ns {
                return *since_ns;
            }
            self.order.pop_front();
        }
        0
    }
}
