// SPDX-License-Identifier: Apache-2.0
//! How a worker comes to a ring and leaves it: attaching with what a predecessor left unfinished,
//! following the frontend's changes, draining.

use std::sync::atomic::Ordering::Relaxed;

use device_backend::shared_mem::SharedMem;
use device_backend::vring::{Snapshot, Vring};
use host::clock::monotonic_ns;
use ipc::health::BROKEN;

use super::{Serving, Worker};
use crate::inflight::CRASH_LIMIT;
use crate::queue::{Attach, Queue, QueueError};
use crate::request::{Status, StatusByte};

/// From this many deaths on, a request is tried alone: the next death will be its own.
const QUARANTINE_FROM: u8 = CRASH_LIMIT - 1;

impl Worker {
    /// Takes nothing more, whatever the ring says: the process is about to end.
    pub fn close(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.broken = true;
        }
    }

    /// Whether nothing is in flight. Then the queue has been left too, if its ring was stopped.
    pub fn is_drained(&mut self, vring: &Vring) -> bool {
        self.refresh(vring);
        self.slots.busy() == 0
    }

    /// Follows what the frontend has changed about the ring or the memory. While requests are in
    /// flight, what they were taken from stays; nothing more is taken until they are done.
    pub(super) fn refresh(&mut self, vring: &Vring) {
        let memory_generation = self.shared.memory.generation();
        if self.seen == Some((vring.generation(), memory_generation)) {
            return;
        }
        let (generation, ring) = vring.snapshot();
        match &mut self.serving {
            Some(serving)
                if ring.running
                    && serving.memory_generation == memory_generation
                    && serving.ring.layout == ring.layout =>
            {
                serving.ring = ring;
            }
            Some(serving) => {
                serving.ring.running = false;
                if self.slots.busy() > 0 {
                    return;
                }
                vring.store_next_avail(serving.queue.next_avail());
                self.serving = None;
                // With what was just stored, and perhaps to be attached at once.
                return self.refresh(vring);
            }
            None if ring.running => {
                let outcome = self.attach(ring, memory_generation);
                self.outcome(outcome.map(|()| true));
            }
            None => {}
        }
        self.seen = Some((generation, memory_generation));
    }

    /// Begins to serve a ring, with what a predecessor left unfinished.
    fn attach(&mut self, ring: Snapshot, memory_generation: u32) -> Result<(), QueueError> {
        let memory = self.shared.memory.now();
        let size = ring.layout.size;
        let fresh = || SharedMem::private(ipc::inflight::queue_bytes(size));
        let attach = Attach {
            layout: ring.layout,
            next_avail: self.region.is_none().then_some(ring.next_avail),
            region: self.region.clone().unwrap_or_else(fresh),
            after_crash: self.shared.after_crash,
            indirect: self.shared.indirect(),
        };
        let (queue, replays) = match Queue::attach(&memory, attach) {
            Ok(attached) => attached,
            Err(e) => {
                self.report(&e, &ring);
                return Ok(());
            }
        };
        self.health().flags.fetch_and(!BROKEN, Relaxed);
        self.serving = Some(Serving {
            queue,
            memory,
            memory_generation,
            ring,
            durable: self.shared.durable(),
            broken: false,
        });
        self.quarantined.clear();
        for replay in replays {
            match replay.deaths {
                CRASH_LIMIT.. => self.fail_poisoned(replay.head)?,
                QUARANTINE_FROM => self.quarantined.push_back(replay),
                // The driver may have changed what it asks for, so that it has to be copied.
                _ if self.slots.are_full() => self.quarantined.push_back(replay),
                _ => self.begin(replay.head, monotonic_ns())?,
            }
        }
        // A failure shows again when the worker submits what it takes from the queue.
        let _ = self.engine.submit();
        Ok(())
    }

    /// Of those that may have killed the process, one at a time and nothing beside it.
    pub(super) fn retry_isolated(&mut self) -> Result<bool, QueueError> {
        if self.slots.busy() > 0 {
            return Ok(false);
        }
        if let Some(replay) = self.quarantined.pop_front() {
            self.begin(replay.head, monotonic_ns())?;
        }
        Ok(true)
    }

    /// Answers a request that has killed the process too often, without trying it again.
    fn fail_poisoned(&mut self, head: u16) -> Result<(), QueueError> {
        log::error!(queue = self.index; "request at head {head} failed: it ended this process {CRASH_LIMIT} times");
        let Some(serving) = &mut self.serving else {
            return Ok(());
        };
        let (chain, memory) = (&mut self.chain, &serving.memory);
        serving.queue.walk(memory, head, chain)?;
        let status = StatusByte::take(chain, memory);
        let slot = self.slots.idle_at(head).ok_or(QueueError::Twice(head))?;
        slot.status = status.map_err(|e| QueueError::Request(head, e))?;
        self.complete(head, Status::IoErr);
        Ok(())
    }
}
