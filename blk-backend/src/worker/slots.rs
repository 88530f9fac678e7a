// SPDX-License-Identifier: Apache-2.0
//! The requests of a queue by descriptor head, and which of them an engine has.

use std::collections::VecDeque;

use crate::io::Io;
use crate::request::StatusByte;

/// While so much is copied because the driver's buffers are not aligned, nothing more is taken: a guest
/// does not decide how much memory this process needs.
const BOUNCED_BYTES_MAX: u64 = 1 << 20;

/// One for each descriptor head; used again by the next request that has it.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    busy: u16,
    /// How much of what the engine has is copied.
    bounced_bytes: u64,
    /// Heads in the order in which they were taken, with the time; those that are over are dropped
    /// when they come to the front.
    order: VecDeque<(u16, u64)>,
}

/// One request.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) io: Io,
    pub(super) status: StatusByte,
    /// When it was taken.
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

    /// The slot of a head that no engine has. While an engine has it, the kernel reads and writes what
    /// its `Io` points to, so nobody else gets it: this is the last check that a driver or vmm cannot
    /// get around by posting a head twice.
    pub(super) fn idle_at(&mut self, head: u16) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(head))?;
        (!slot.busy).then_some(slot)
    }

    /// The slot of a head that an engine has.
    pub(super) fn busy_at(&mut self, head: u16) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(usize::from(head))?;
        slot.busy.then_some(slot)
    }

    /// How many requests an engine has.
    pub(super) fn busy(&self) -> u16 {
        self.busy
    }

    /// Whether an engine has so much that is copied that it gets nothing more.
    pub(super) fn are_full(&self) -> bool {
        self.bounced_bytes >= BOUNCED_BYTES_MAX
    }

    /// An engine gets the request.
    pub(super) fn start(&mut self, head: u16) {
        let slot = &mut self.slots[usize::from(head)];
        debug_assert!(!slot.busy, "head {head} starts twice");
        slot.busy = true;
        self.busy += 1;
        self.bounced_bytes += slot.io.bounced_bytes();
        self.order.push_back((head, slot.since_ns));
    }

    /// It gives it back.
    pub(super) fn end(&mut self, head: u16) {
        let slot = &mut self.slots[usize::from(head)];
        slot.busy = false;
        self.busy -= 1;
        self.bounced_bytes -= slot.io.bounced_bytes();
    }

    /// When the oldest request was taken; 0 if there is none.
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
