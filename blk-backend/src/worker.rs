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

use backend::chain::Chain;
use backend::vring::{Snapshot, Vring, notify};
use backend::window::Window;
use launch::clock::monotonic_ns;
use launch::health::{BROKEN, QueueHealth};

use crate::device::Shared;
use crate::engine::{Completion, Engine};
use crate::inflight::{DEATHS_MAX, Replay};
use crate::io::Io;
use crate::polling::Polling;
use crate::queue::{Attach, Queue, QueueError};
use crate::request::{self, Answer, Memory, Parsed, Status, StatusByte};

/// From this many deaths on, a request is tried alone: the next death will be its own.
const DEATHS_SUSPECT: u8 = DEATHS_MAX - 1;

/// The most completions that are published at once: the driver works on them while the rest are
/// answered.
const BATCH: usize = 8;

/// Everything about one queue.
#[derive(Debug)]
pub struct Worker {
    index: u16,
    shared: Arc<Shared>,
    engine: Engine,
    region: Option<Window>,
    serving: Option<Serving>,
    /// The generations of ring and memory that `serving` agrees with.
    seen: Option<(u32, u32)>,
    slots: Slots,
    suspects: VecDeque<Replay>,
    done: Vec<Completion>,
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

/// The requests that an engine has, by descriptor head.
#[derive(Debug, Default)]
struct Slots {
    slots: Vec<Slot>,
    busy: u16,
    /// Heads in the order in which they were taken, with the time; those that are over are dropped
    /// when they come to the front.
    order: VecDeque<(u16, u64)>,
}

#[derive(Debug, Default)]
struct Slot {
    io: Io,
    status: StatusByte,
    since_ns: u64,
    busy: bool,
}

impl Worker {
    /// The worker of queue `index`. `region` is its in-flight region if that outlives the process.
    pub fn new(
        index: u16,
        shared: Arc<Shared>,
        engine: Engine,
        region: Option<Window>,
        poll_us: u32,
    ) -> Self {
        let mut slots = Slots::default();
        let size = usize::from(shared.disk.queue_size);
        slots.slots.resize_with(size, Slot::default);
        Self {
            index,
            shared,
            engine,
            region,
            serving: None,
            seen: None,
            slots,
            suspects: VecDeque::new(),
            done: Vec::new(),
            chain: Chain::default(),
            polling: Polling::new(poll_us),
        }
    }

    /// The engine, for whoever watches for its completions.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Serves the queue until there is nothing to do.
    pub fn run(&mut self, vring: &Vring) {
        loop {
            let ping = self.shared.ping.load(Relaxed);
            self.health().heartbeat.store(ping, Relaxed);
            self.refresh(vring);
            let outcome = self.take_requests();
            let worked = self.outcome(outcome) | self.finish_requests();
            if !worked && !self.look_for_work(vring) && self.may_sleep() {
                return;
            }
        }
    }

    /// Takes nothing more, whatever the ring says: the process is about to end.
    pub fn close(&mut self) {
        if let Some(serving) = &mut self.serving {
            serving.broken = true;
        }
    }

    /// Whether nothing is in flight. Then the queue has been left too, if its ring was stopped.
    pub fn is_drained(&mut self, vring: &Vring) -> bool {
        self.refresh(vring);
        self.slots.busy == 0
    }

    /// Follows what the frontend has changed about the ring or the memory. While requests are in
    /// flight, what they were taken from stays; nothing more is taken until they are done.
    fn refresh(&mut self, vring: &Vring) {
        let memory_generation = self.shared.memory_generation();
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
                if self.slots.busy > 0 {
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
        let memory = self.shared.memory();
        let size = ring.layout.size;
        let fresh = || Window::private(launch::inflight::queue_bytes(size));
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
        self.suspects.clear();
        for replay in replays {
            self.slots.slots[usize::from(replay.head)].since_ns = monotonic_ns();
            match replay.deaths {
                0..DEATHS_SUSPECT => self.begin(replay.head)?,
                DEATHS_SUSPECT => self.suspects.push_back(replay),
                _ => self.retire(replay.head)?,
            }
        }
        self.engine.submit();
        Ok(())
    }

    /// Pops what the driver has made available and gives it to the engine. Says whether there was
    /// anything.
    fn take_requests(&mut self) -> Result<bool, QueueError> {
        let Some(serving) = self.serving.as_mut().filter(|s| s.takes()) else {
            return Ok(false);
        };
        if !self.suspects.is_empty() {
            return self.try_suspect();
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
                self.engine.submit();
                submit_at = 2 * submit_at + 1;
            }
            let Some(serving) = &mut self.serving else {
                break;
            };
            let head = serving.queue.fetch()?;
            self.slots.slots[usize::from(head)].since_ns = now_ns;
            self.begin(head)?;
        }
        Ok(true)
    }

    /// Of those that may have killed the process, one at a time and nothing beside it.
    fn try_suspect(&mut self) -> Result<bool, QueueError> {
        if self.slots.busy > 0 {
            return Ok(false);
        }
        if let Some(replay) = self.suspects.pop_front() {
            self.begin(replay.head)?;
        }
        Ok(true)
    }

    /// Parses the request at a head that was fetched, and starts or completes it.
    fn begin(&mut self, head: u16) -> Result<(), QueueError> {
        let Some(serving) = &mut self.serving else {
            return Ok(());
        };
        let slot = &mut self.slots.slots[usize::from(head)];
        let (chain, memory) = (&mut self.chain, &serving.memory);
        serving.queue.walk(memory, head, chain)?;
        slot.status = StatusByte::take(chain, memory).map_err(|e| QueueError::Request(head, e))?;
        let disk = &self.shared.disk;
        match request::parse(chain, memory, disk, serving.durable, &mut slot.io) {
            Parsed::Io => {
                serving.queue.try_out(head);
                self.engine.start(head, &slot.io);
                self.slots.start(head);
            }
            Parsed::Done(status) => self.complete(head, status),
        }
        Ok(())
    }

    /// Answers a request that has killed the process too often, without trying it again.
    fn retire(&mut self, head: u16) -> Result<(), QueueError> {
        log::error!(queue = self.index; "request at head {head} failed: it ended this process {DEATHS_MAX} times");
        let Some(serving) = &mut self.serving else {
            return Ok(());
        };
        let (chain, memory) = (&mut self.chain, &serving.memory);
        serving.queue.walk(memory, head, chain)?;
        let status = StatusByte::take(chain, memory);
        self.slots.slots[usize::from(head)].status =
            status.map_err(|e| QueueError::Request(head, e))?;
        self.complete(head, Status::IoErr);
        Ok(())
    }

    /// Reaps the engine and publishes what is complete, a batch at a time. Says whether there was
    /// anything.
    fn finish_requests(&mut self) -> bool {
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
        reaped || !submitted
    }

    /// Shows the driver the batch, with one write to the used index and at most one call.
    fn publish(&mut self) {
        if let Some(serving) = &mut self.serving
            && serving.queue.publish()
            && let Some(call) = &serving.ring.call
        {
            notify(call);
        }
    }

    /// What the engine says about one request.
    fn answer(&mut self, completion: Completion) {
        let Completion { head, result } = completion;
        let Some(slot) = self
            .slots
            .slots
            .get_mut(usize::from(head))
            .filter(|s| s.busy)
        else {
            debug_assert!(false, "head {head} completes and was not started");
            return;
        };
        match request::judge(&mut slot.io, result) {
            Answer::Again => self.engine.start(head, &slot.io),
            Answer::Done(status) => {
                if status != Status::Ok {
                    log::warn!(queue = self.index; "request at head {head} failed, errno {}", -result);
                }
                self.slots.end(head);
                self.complete(head, status);
            }
        }
    }

    /// Writes the status and puts the head into the batch.
    fn complete(&mut self, head: u16, status: Status) {
        let Some(serving) = &mut self.serving else {
            return;
        };
        let slot = &mut self.slots.slots[usize::from(head)];
        if status == Status::Ok {
            slot.io.unbounce(&serving.memory);
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
        let takes = serving.takes() && self.suspects.is_empty();
        self.polling.look(|| {
            (takes && !matches!(serving.queue.available(), Ok(0)))
                || engine.is_ready()
                || seen != Some((vring.generation(), shared.memory_generation()))
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
        available.unwrap_or(false) || !self.suspects.is_empty()
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
        log::error!(queue = self.index; "{}", launch::log::chain(error));
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
        let (busy, oldest_ns) = (self.slots.busy, self.slots.oldest_ns());
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

impl Slots {
    fn start(&mut self, head: u16) {
        let slot = &mut self.slots[usize::from(head)];
        debug_assert!(!slot.busy, "head {head} starts twice");
        slot.busy = true;
        self.busy += 1;
        self.order.push_back((head, slot.since_ns));
    }

    fn end(&mut self, head: u16) {
        self.slots[usize::from(head)].busy = false;
        self.busy -= 1;
    }

    /// When the oldest request was taken; 0 if there is none.
    fn oldest_ns(&mut self) -> u64 {
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
