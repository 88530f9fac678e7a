// SPDX-License-Identifier: Apache-2.0
//! How a worker attaches to a ring and leaves it: takes up the requests that an earlier generation
//! left in flight, follows the frontend's changes, drains.

use std::sync::atomic::Ordering::Relaxed;

use device_backend::shared_mem::SharedMem;
use device_backend::vring::{Snapshot, Vring};
use host::clock::monotonic_ns;
use ipc::health::BROKEN;

use super::{Serving, Worker};
use crate::inflight::CRASH_LIMIT;
use crate::queue::{Attach, Queue, QueueError};
use crate::request::{Status, StatusByte};

/// From this many crashes on, a request runs alone: if the process dies again, it is the cause.
const QUARANTINE_FROM: u8 = CRASH_LIMIT - 1;

impl Worker {
    /// Takes no more requests: the process is about to end.
    pub fn close(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.broken = true;
        }
    }

    /// Whether no request is in flight. If the ring is stopped, the worker has then left it.
    pub fn is_drained(&mut self, vring: &Vring) -> bool {
        self.refresh(vring);
        self.slots.busy() == 0
    }

    /// Follows the frontend's changes of the ring or the memory. While requests are in flight,
    /// keeps the ring and memory they came from and takes no more.
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
                // Runs with the index just stored, and may attach again at once.
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

    /// Attaches to a ring, and takes up the requests that an earlier generation left in flight.
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
                // The driver may have changed the request since, so that it needs a copy now.
                _ if self.slots.are_full() => self.quarantined.push_back(replay),
                _ => self.begin(replay.head, monotonic_ns())?,
            }
        }
        // If this fails, the worker's next submit fails, too.
        let _ = self.engine.submit();
        Ok(())
    }

    /// Runs the requests that may have crashed the process one at a time, without any other.
    pub(super) fn retry_isolated(&mut self) -> Result<bool, QueueError> {
        if self.slots.busy() > 0 {
            return Ok(false);
        }
        if let Some(replay) = self.quarantined.pop_front() {
            self.begin(replay.head, monotonic_ns())?;
        }
        Ok(true)
    }

    /// Fails a request that has crashed the process too often, without running it.
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
