// SPDX-License-Identifier: Apache-2.0
//! The thread that serves both queues. A kick, a press or a change of a ring wakes it; it serves until
//! there is nothing to do.
//!
//! vhost-user-backend's event loop calls `run`. Nothing that a guest does ends the thread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::chain::Chain;
use device_backend::progress;
use device_backend::queue_state::{Change, QueueFault, QueueState};
use device_backend::vring::Vring;
use ipc::fd::input::QUEUES;
use ipc::health::{BROKEN, HAS_DRIVER};
use vm_memory::Bytes;

use crate::event::{EVENT_BYTES, PRESS, PRESS_EVENTS};
use crate::shared::Shared;

/// The queues: to the driver go events, from it comes the state of lamps, of which there are none.
const SLOTS: usize = QUEUES as usize;
const EVENTS: usize = 0;
const STATUS: usize = 1;

/// How far the worker thread has followed the frontend.
pub type Progress = progress::Progress<SLOTS>;

/// The worker of both queues.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    queues: [QueueState; SLOTS],
    /// The generations of the rings that were followed.
    followed: [Option<u32>; SLOTS],
    chain: Chain,
}

impl Worker {
    /// The worker of a device.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            queues: Default::default(),
            followed: [None; SLOTS],
            chain: Chain::default(),
        }
    }

    /// Serves the queues until there is nothing to do.
    pub fn run(&mut self, vrings: &[Vring], progress: &Progress) {
        while self.round(vrings, progress) {}
    }

    /// Serves the queues once; returns whether there may be more to do. A guest can see to it that
    /// there always is, for instance with rings that overlap.
    pub fn round(&mut self, vrings: &[Vring], progress: &Progress) -> bool {
        let ping = self.shared.ping.load(Relaxed);
        for queue in 0..QUEUES {
            self.shared.health(queue).heartbeat.store(ping, Relaxed);
        }
        self.follow(vrings, progress);
        let pressed = self.press();
        let worked = self.outcome(pressed, EVENTS);
        let dropped = self.drop_status();
        self.outcome(dropped, STATUS) || worked || !self.may_sleep()
    }

    /// Follows the frontend's changes of the rings.
    fn follow(&mut self, vrings: &[Vring], progress: &Progress) {
        let mut followed = self.followed;
        for (slot, vring) in vrings.iter().enumerate().take(SLOTS) {
            let outcome = self.queues[slot].follow(vring, &self.shared.memory, 0);
            match outcome {
                Ok(Change::None) => {}
                Ok(Change::Moved) => self.moved(slot),
                Err(fault) => self.report(&fault, slot),
            }
            followed[slot] = self.queues[slot].seen_ring();
        }
        if followed != self.followed {
            self.followed = followed;
            progress.settle(followed);
        }
    }

    /// A ring has been started, replaced or stopped.
    fn moved(&mut self, slot: usize) {
        let flags = &self.shared.health(number(slot)).flags;
        flags.fetch_and(!(BROKEN | HAS_DRIVER), Relaxed);
        let Some(serving) = self.queues[slot].serving() else {
            return;
        };
        if slot == EVENTS {
            self.shared.deliveries.recover(serving.ring.next_used());
            flags.fetch_or(HAS_DRIVER, Relaxed);
        }
    }

    /// Tells the driver of the next press, once it has offered a buffer for each of its events;
    /// returns whether it was told.
    fn press(&mut self) -> Result<bool, QueueFault> {
        let shared = &self.shared;
        let Some(serving) = self.queues[EVENTS].serving() else {
            return Ok(false);
        };
        if shared.pending() == 0 || serving.ring.available()? < PRESS_EVENTS {
            return Ok(false);
        }
        let used = serving.ring.next_used();
        shared.deliveries.begin(used.wrapping_add(PRESS_EVENTS));
        for event in PRESS {
            let head = serving.ring.take()?;
            let walked = self.chain.walk(&serving.ring, &serving.memory, head, false);
            walked.map_err(|e| QueueFault::Chain(head, e))?;
            let buffer = self.chain.writable.first();
            let buffer = buffer.filter(|buffer| buffer.len_bytes >= EVENT_BYTES);
            let address = buffer.ok_or(QueueFault::Useless(head))?.address;
            let written = serving.memory.write_slice(&event, address);
            written.map_err(|_| QueueFault::Useless(head))?;
            serving.ring.push_used(head, EVENT_BYTES);
        }
        serving.publish();
        shared.deliveries.finish();
        shared.health(0).requests.fetch_add(1, Relaxed);
        serving.call();
        Ok(true)
    }

    /// Gives back what the driver has sent; returns whether there was anything.
    fn drop_status(&mut self) -> Result<bool, QueueFault> {
        let Some(serving) = self.queues[STATUS].serving() else {
            return Ok(false);
        };
        let available = serving.ring.available()?;
        for _ in 0..available {
            let head = serving.ring.take()?;
            serving.ring.push_used(head, 0);
        }
        if available > 0 {
            serving.publish();
            serving.call();
        }
        Ok(available > 0)
    }

    /// Enables kicks; returns whether there is still nothing to do after that.
    fn may_sleep(&mut self) -> bool {
        let pending = self.shared.pending() > 0;
        let [events, status] = &mut self.queues;
        let needed = |queue: &mut QueueState, buffers: u16| {
            let Some(serving) = queue.serving() else {
                return true;
            };
            serving.ring.enable_kicks();
            let available = serving.ring.available();
            available.is_ok_and(|available| available < buffers)
        };
        let is_idle = needed(events, PRESS_EVENTS) || !pending;
        needed(status, 1) && is_idle
    }

    /// A guest that broke a queue cannot use it until it resets the device.
    fn outcome(&mut self, outcome: Result<bool, QueueFault>, slot: usize) -> bool {
        match outcome {
            Ok(worked) => worked,
            Err(fault) => {
                self.report(&fault, slot);
                self.queues[slot].give_up();
                true
            }
        }
    }

    fn report(&self, fault: &QueueFault, slot: usize) {
        log::error!(queue = slot; "{}", host::log::chain(fault));
        let flags = &self.shared.health(number(slot)).flags;
        flags.fetch_and(!HAS_DRIVER, Relaxed);
        flags.fetch_or(BROKEN, Relaxed);
        if slot == EVENTS {
            self.shared.deliveries.cancel();
        }
    }
}

/// The number of the queue in a slot.
fn number(slot: usize) -> u16 {
    u16::try_from(slot).unwrap_or(0)
}
