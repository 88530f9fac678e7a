// SPDX-License-Identifier: Apache-2.0
//! One queue and the thread that serves it: from the kick, through pop, engine and used ring, to the
//! call. What a request is and means is in `request`, how it is done in `engine`.
//!
//! `run` is called on the worker thread by vhost-user-backend's event loop, for a kick, a completion
//! or a change of the ring. The protocol thread only asks whether the queue is drained; the lock
//! around the worker keeps them apart. Nothing here waits for a peer, and nothing a guest does ends
//! the thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::chain::Chain;
use device_backend::polling::Polling;
use device_backend::shared_mem::SharedMem;
use device_backend::vring::{Snapshot, Vring, notify};
use host::clock::monotonic_ns;
use ipc::health::{BROKEN, QueueHealth};

use crate::engine::{Completion, Engine, EngineError, Submitted};
use crate::inflight::Replay;
use crate::queue::{Queue, QueueError};
use crate::request::{self, Memory, Outcome, Parsed, Status, StatusByte};
use crate::shared::Shared;
use held::Held;
use slots::Slots;

mod held;
mod lifecycle;
mod slots;

/// The most completions that are published at once: the driver works on them while the rest are
/// answered.
const BATCH: usize = 8;

/// Everything about one queue.
#[derive(Debug)]
pub struct Worker {
    index: u16,
    shared: Arc<Shared>,
    engine: Engine,
    region: Option<SharedMem>,
    serving: Option<Serving>,
    /// The generations of ring and memory that `serving` agrees with.
    seen: Option<(u32, u32)>,
    slots: Slots,
    quarantined: VecDeque<Replay>,
    held: Held,
    done: Vec<Completion>,
    /// Heads that begin now, and queues that have some.
    ready: Vec<u16>,
    wake: Vec<u16>,
    chain: Chain,
    polling: Polling,
}

/// A ring that is being served.
#[derive(Debug)]
struct Serving {
    queue: Queue,
    memory: Memory,
    memory_generation: u32,
    ring: Snapshot,
    durable: bool,
    broken: bool,
}

impl Worker {
    /// The worker of queue `index`. `region` is its in-flight region if that outlives the process.
    pub fn new(
        index: u16,
        shared: Arc<Shared>,
        engine: Engine,
        region: Option<SharedMem>,
        poll_us: u32,
    ) -> Self {
        let slots = Slots::new(shared.disk.queue_size);
        Self {
            index,
            shared,
            engine,
            region,
            serving: None,
            seen: None,
            slots,
            quarantined: VecDeque::new(),
            held: Held::default(),
            done: Vec::new(),
            ready: Vec::new(),
            wake: Vec::new(),
            chain: Chain::default(),
            polling: Polling::new(poll_us),
        }
    }

    /// The engine, for whoever watches for its completions.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Serves the queue until there is nothing to do.
    ///
    /// # Errors
    /// If the engine fails for good: the process has to end, with what is in flight left to the next.
    pub fn run(&mut self, vring: &Vring) -> Result<(), EngineError> {
        loop {
            let ping = self.shared.ping.load(Relaxed);
            self.health().heartbeat.store(ping, Relaxed);
            self.refresh(vring);
            let outcome = self.take_requests();
            let worked = self.outcome(outcome) | self.release_held() | self.finish_requests()?;
            if !worked && !self.look_for_work(vring) && self.may_sleep() {
                return Ok(());
            }
        }
    }

    /// Pops what the driver has made available and gives it to the engine. Says whether there was
    /// anything.
    fn take_requests(&mut self) -> Result<bool, QueueError> {
        let Some(serving) = self.serving.as_mut().filter(|s| s.takes()) else {
            return Ok(false);
        };
        if !self.quarantined.is_empty() {
            return self.retry_isolated();
        }
        if self.slots.are_full() {
            return Ok(false);
        }
        let available = serving.queue.available()?;
        if available == 0 {
            return Ok(false);
        }
        serving.queue.disable_kicks();
        let now_ns = monotonic_ns();
        let mut submit_at = 1;
        for taken in 0..available {
            // The disk begins with the first while the others are parsed. Each part is twice as
            // long as the one before, so that a long batch takes few system calls.
            if taken == submit_at {
                // A failure shows again when the batch is whole.
                let _ = self.engine.submit();
                submit_at = 2 * submit_at + 1;
            }
            let Some(serving) = self.serving.as_mut().filter(|_| !self.slots.are_full()) else {
                break;
            };
            let head = serving.queue.fetch()?;
            self.begin(head, now_ns)?;
        }
        Ok(true)
    }

    /// Parses the request at a head that was fetched, and starts or completes it.
    fn begin(&mut self, head: u16, now_ns: u64) -> Result<(), QueueError> {
        let Some(serving) = &mut self.serving else {
            return Ok(());
        };
        let slot = self.slots.idle_at(head).ok_or(QueueError::Twice(head))?;
        slot.since_ns = now_ns;
        let (chain, memory) = (&mut self.chain, &serving.memory);
        // From here on, if the process dies, this request may be the reason.
        serving.queue.try_out(head);
        serving.queue.walk(memory, head, chain)?;
        slot.status = StatusByte::take(chain, memory).map_err(|e| QueueError::Request(head, e))?;
        let disk = &self.shared.disk;
        match request::parse(chain, memory, disk, serving.durable, &mut slot.io) {
            Parsed::Io if self.withhold(head) => {}
            Parsed::Io => {
                self.slots.start(head);
                self.engage(head);
            }
            Parsed::Done(status) => self.complete(head, status),
        }
        Ok(())
    }

    /// Submits, reaps the engine and publishes what is complete, a batch at a time. Says whether there
    /// was anything, or whether to try again.
    fn finish_requests(&mut self) -> Result<bool, EngineError> {
        let started = self.start_ready();
        let submitted = self.engine.submit();
        self.engine.reap(&mut self.done);
        let mut done = std::mem::take(&mut self.done);
        let reaped = !done.is_empty();
        for (index, completion) in done.drain(..).enumerate() {
            if index % BATCH == 0 {
                self.publish();
            }
            self.answer(completion);
        }
        self.done = done;
        self.publish();
        self.note_health();
        match submitted {
            Ok(Submitted::Whole) => Ok(reaped || started),
            // What is under way wakes this thread when it completes.
            Ok(Submitted::Partly) if reaped || !self.engine.is_idle() => Ok(reaped),
            Ok(Submitted::Partly) => {
                log::warn!(queue = self.index; "the kernel has no memory for requests now");
                self.absolve();
                self.engine.pause();
                Ok(true)
            }
            Err(e) => {
                self.absolve();
                Err(e)
            }
        }
    }

    /// Gives a request to the engine; if another one is changing a block that it changes, it begins
    /// when that one is over.
    fn engage(&mut self, head: u16) {
        let Some(slot) = self.slots.busy_at(head) else {
            return;
        };
        let free = match (&self.shared.blocks, slot.io.changes()) {
            (Some(blocks), Some(range)) => blocks.enter(self.index, head, range),
            _ => true,
        };
        if free {
            self.engine.start(head, &slot.io);
        }
    }

    /// Starts what had to wait until another request had changed its blocks.
    fn start_ready(&mut self) -> bool {
        let Some(blocks) = &self.shared.blocks else {
            return false;
        };
        blocks.ready(self.index, &mut self.ready);
        let any = !self.ready.is_empty();
        for head in self.ready.drain(..) {
            if let Some(slot) = self.slots.busy_at(head) {
                self.engine.start(head, &slot.io);
            }
        }
        any
    }

    /// A request that has changed blocks is over; others may change them.
    fn leave_blocks(&mut self, head: u16) {
        if let Some(blocks) = &self.shared.blocks {
            blocks.leave(self.index, head, &mut self.wake);
            // This worker looks before it sleeps.
            self.wake.retain(|queue| *queue != self.index);
            self.shared.wake(&self.wake);
            self.wake.clear();
        }
    }

    /// No request is the reason of what follows.
    fn absolve(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.queue.absolve();
        }
    }

    /// Shows the driver the batch, with one write to the used index and at most one call.
    fn publish(&mut self) {
        if let Some(serving) = &mut self.serving
            && serving.queue.publish()
            && let Some(call) = &serving.ring.call
        {
            notify(call);
        }
        self.published();
    }

    /// What the engine says about one request.
    fn answer(&mut self, completion: Completion) {
        let Completion { head, result } = completion;
        let Some(slot) = self.slots.busy_at(head) else {
            debug_assert!(false, "head {head} completes and was not started");
            return;
        };
        let Some(serving) = &self.serving else {
            return;
        };
        match request::completion(&mut slot.io, result, &serving.memory) {
            Outcome::Again => self.engine.start(head, &slot.io),
            Outcome::Done(status) => {
                if status != Status::Ok {
                    let why = request::failure(&slot.io, result);
                    let errno = (-result).max(0).cast_unsigned();
                    self.shared
                        .health(self.index)
                        .last_errno
                        .store(errno, Relaxed);
                    log::warn!(queue = self.index; "request at head {head} failed: {why}");
                }
                let has_changed = slot.io.changes().is_some();
                self.slots.end(head);
                if has_changed {
                    self.leave_blocks(head);
                }
                self.complete(head, status);
            }
        }
    }

    /// Writes the status and puts the head into the batch.
    fn complete(&mut self, head: u16, status: Status) {
        let Some(serving) = &mut self.serving else {
            return;
        };
        let Some(slot) = self.slots.idle_at(head) else {
            debug_assert!(false, "head {head} is answered while an engine has it");
            return;
        };
        match status {
            Status::Ok => slot.io.unbounce(&serving.memory),
            _ => slot.io.forget_bounce(),
        }
        slot.status.write(&serving.memory, status);
        let written_bytes = request::written_bytes(&slot.io, status);
        serving.queue.complete(head, written_bytes);
        self.shared.count(self.index, &slot.io, status);
    }

    /// Waits a little, awake, for work. Says whether there is any.
    fn look_for_work(&mut self, vring: &Vring) -> bool {
        let Some(serving) = &self.serving else {
            return false;
        };
        let (shared, engine, seen) = (&self.shared, &mut self.engine, self.seen);
        let takes = serving.takes() && self.quarantined.is_empty() && !self.slots.are_full();
        self.polling.look(|| {
            (takes && !matches!(serving.queue.available(), Ok(0)))
                || engine.is_ready()
                || seen != Some((vring.generation(), shared.memory.generation()))
        })
    }

    /// Asks for kicks; there is nothing to do if there is still nothing then.
    fn may_sleep(&mut self) -> bool {
        let Some(serving) = self.serving.as_ref().filter(|s| s.takes()) else {
            return true;
        };
        serving.queue.enable_kicks();
        let available = serving.queue.available().map(|n| n == 0);
        // An error shows again, and is dealt with, when the request is to be taken.
        available.unwrap_or(false) || !self.quarantined.is_empty() || self.slots.are_full()
    }

    /// A guest that broke its queue has lost it until it resets the device; what is in flight ends.
    fn outcome(&mut self, outcome: Result<bool, QueueError>) -> bool {
        match outcome {
            Ok(worked) => worked,
            Err(e) => {
                if let Some(serving) = &mut self.serving {
                    serving.broken = true;
                    let ring = serving.ring.clone();
                    self.report(&e, &ring);
                }
                true
            }
        }
    }

    fn report(&self, error: &QueueError, ring: &Snapshot) {
        log::error!(queue = self.index; "{}", host::log::chain(error));
        self.health().flags.fetch_or(BROKEN, Relaxed);
        if let Some(error) = &ring.error {
            notify(error);
        }
    }

    fn health(&self) -> &QueueHealth {
        self.shared.health(self.index)
    }

    fn note_health(&mut self) {
        let Some(serving) = &self.serving else {
            return;
        };
        let (avail, used) = (serving.queue.next_avail(), serving.queue.used());
        let (busy, oldest_ns) = (self.slots.busy(), self.slots.oldest_ns());
        let health = self.health();
        health.last_avail.store(u32::from(avail), Relaxed);
        health.used.store(u32::from(used), Relaxed);
        health.in_flight.store(u32::from(busy), Relaxed);
        health.oldest_ns.store(oldest_ns, Relaxed);
    }
}

impl Serving {
    /// Whether requests may be taken from the queue.
    fn takes(&self) -> bool {
        self.ring.running && !self.broken
    }
}
