// SPDX-License-Identifier: Apache-2.0
//! Flushes that wait until the supervisor says whether writes of an earlier generation were lost: see
//! [`crate::witness`].

use std::sync::atomic::Ordering::Relaxed;

use super::Worker;
use crate::request::Status;

/// The waiting heads, and whether a completion in the batch reports a loss.
#[derive(Debug, Default)]
pub(super) struct Held {
    heads: Vec<u16>,
    telling: bool,
}

impl Worker {
    /// Holds the request at a head back if it must wait, or fails it if it must report a loss to
    /// the driver. Returns whether it did either.
    pub(super) fn withhold(&mut self, head: u16) -> bool {
        let Some(slot) = self.slots.idle_at(head) else {
            return false;
        };
        let witness = &self.shared.witness;
        if witness.holds(&slot.io) {
            // Count it as busy: the worker must not leave the queue before it is complete.
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

    /// Once the result is there, starts the waiting requests, or fails them. Returns whether there
    /// were any.
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

    /// Called when the batch has been published.
    pub(super) fn published(&mut self) {
        if std::mem::take(&mut self.held.telling) {
            self.shared.page().loss_told.store(1, Relaxed);
        }
    }
}
