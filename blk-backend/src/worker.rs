// SPDX-License-Identifier: Apache-2.0
//! One queue and the thread that serves it: from the kick, through pop, engine and used ring, to
//! the call. `request` parses requests, `engine` does their I/O.
//!
//! vhost-user-backend's event loop calls `run` on the worker thread for a kick, a completion or a
//! change of the ring. The protocol thread only asks whether the queue is drained; the lock around
//! the worker keeps them apart. Nothing here waits for a peer, and nothing a guest does ends the
//! thread.

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

/// The most completions published at once: the driver can process them while the worker handles the
/// rest.
const BATCH: usize = 8;

/// A queue with its engine and its requests.
#[derive(Debug)]
pub struct Worker {
    index: u16,
    shared: Arc<Shared>,
    engine: Engine,
    region: Option<SharedMem>,
    serving: Option<Serving>,
    /// The generations of ring and memory that `serving` is based on.
    seen: Option<(u32, u32)>,
    slots: Slots,
    quarantined: VecDeque<Replay>,
    held: Held,
    done: Vec<Completion>,
    /// Heads to start now, and queues that have some. (Buffers, reused.)
    ready: Vec<u16>,
    wake: Vec<u16>,
    chain: Chain,
    polling: Polling,
}

/// A ring being served.
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

    /// The engine, whose completions the event loop watches.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Serves the queue until there is nothing to do.
    ///
    /// # Errors
    /// If the engine fails for good: the next process takes up the requests in flight.
    pub fn run(&mut self, vring: &Vring) -> Result<(), EngineError> {
        while self.round(vring)? {}
        Ok(())
    }

    /// Serves the queue once; returns whether there may be more to do, as there always is on a ring
    /// whose parts a guest made overlap.
    ///
    /// # Errors
    /// As of [`Worker::run`].
    pub fn round(&mut self, vring: &Vring) -> Result<bool, EngineError> {
        let answer = self.shared.ping.load(Relaxed);
        self.health().heartbeat.store(answer, Relaxed);
        self.refresh(vring);
        let outcome = self.take_requests();
        let worked = self.outcome(outcome) | self.release_held() | self.finish_requests()?;
        Ok(worked || self.look_for_work(vring) || !self.may_sleep())
    }

    /// Takes the available requests and starts them. Returns whether there were any.
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
            // Submit the first requests while parsing the others. Each part is twice as long as the
            // previous one, so that a long batch needs few system calls.
            if taken == submit_at {
                // If this fails, submitting the whole batch fails, too.
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

    /// Parses the request at a fetched head, and starts or completes it.
    fn begin(&mut self, head: u16, now_ns: u64) -> Result<(), QueueError> {
        let Some(serving) = &mut self.serving else {
            return Ok(());
        };
        let slot = self.slots.idle_at(head).ok_or(QueueError::Twice(head))?;
        slot.since_ns = now_ns;
        let (chain, memory) = (&mut self.chain, &serving.memory);
        // From here on, this request may be the cause if the process dies.
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

    /// Submits the batch, reaps completions and publishes them, a batch at a time. Returns whether
    /// to run again.
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
            // A completion of the operations in progress wakes this thread.
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

    /// Starts a request, or defers it until another request that changes the same blocks is
    /// complete.
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

    /// Starts the requests that waited for another one to release their blocks.
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

    /// Releases the blocks of a completed request.
    fn leave_blocks(&mut self, head: u16) {
        if let Some(blocks) = &self.shared.blocks {
            blocks.leave(self.index, head, &mut self.wake);
            // This worker checks its own queue before it sleeps.
            self.wake.retain(|queue| *queue != self.index);
            self.shared.wake(&self.wake);
            self.wake.clear();
        }
    }

    /// Records that no request is the cause of what follows.
    fn absolve(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.queue.absolve();
        }
    }

    /// Publishes the batch, with one write to the used index and at most one call.
    fn publish(&mut self) {
        if let Some(serving) = &mut self.serving
            && serving.queue.publish()
            && let Some(call) = &serving.ring.call
        {
            notify(call);
        }
        self.published();
    }

    /// Handles the completion of one operation.
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

    /// Writes the status and adds the head to the batch.
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

    /// Polls for work. Returns whether there is any.
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

    /// Asks for kicks; then checks that there is still nothing to do.
    fn may_sleep(&mut self) -> bool {
        let Some(serving) = self.serving.as_ref().filter(|s| s.takes()) else {
            return true;
        };
        serving.queue.enable_kicks();
        let available = serving.queue.available().map(|n| n == 0);
        // On an error do not sleep: taking the request reports it.
        available.unwrap_or(false) || !self.quarantined.is_empty() || self.slots.are_full()
    }

    /// Marks the queue as broken on a guest's error, until the guest resets the device; requests in
    /// flight end.
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
    /// Whether the worker may take requests from the queue.
    fn takes(&self) -> bool {
        self.ring.running && !self.broken
    }
}
