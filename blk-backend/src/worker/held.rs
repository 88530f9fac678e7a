// SPDX-License-Identifier: Apache-2.0
//! Flushes that wait until it is known whether a predecessor has lost writes: see
//! [`crate::witness`].

use std::sync::atomic::Ordering::Relaxed;

use super::Worker;
use crate::request::Status;

/// Heads that wait, and whether a loss is being told.
#[derive(Debug, Default)]
pub(super) struct Held {
    heads: Vec<u16>,
    telling: bool,
}

impl Worker {
    /// Keeps the request at a head from the engine if it has to wait, or fails it if it has to tell
    /// the driver of a loss. Whether it did either.
    pub(super) fn withhold(&mut self, head: u16) -> bool {
        let Some(slot) = self.slots.idle_at(head) else {
            return false;
        };
        let witness = &self.shared.witness;
        if witness.holds(&slot.io) {
            // As if an engine had it: the queue is not left before it is answered.
            self.slots.start(head);
            self.held.heads.push(head);
            return true;
        }
        let fails = witness.fails(&slot.io);
        if fails {
            self.tell_loss(head);
        }
        fails
    }

    /// Gives those that have waited to the engine, or fails them, once the answer is there. Says
    /// whether there were any.
    pub(super) fn release_held(&mut self) -> bool {
        if self.held.heads.is_empty() || self.shared.witness.is_awaited() {
            return false;
        }
        let fails = self.shared.witness.fails_held();
        for head in std::mem::take(&mut self.held.heads) {
            if fails {
                self.slots.end(head);
                self.tell_loss(head);
            } else {
                self.engage(head);
            }
        }
        true
    }

    fn tell_loss(&mut self, head: u16) {
        log::error!(queue = self.index; "request at head {head} failed: the storage has lost earlier writes");
        self.held.telling = true;
        self.complete(head, Status::IoErr);
    }

    /// What was complete has been shown to the driver.
    pub(super) fn published(&mut self) {
        if std::mem::take(&mut self.held.telling) {
            self.shared.page().loss_told.store(1, Relaxed);
        }
    }
}
