// SPDX-License-Identifier: Apache-2.0
//! Load: a thread for each queue keeps its slots busy and notes how long each request took.

use std::thread;
use std::time::{Duration, Instant};

use host::clock::monotonic_ns;

use crate::disk::{Completion, Kind, Queue, Request};
use crate::histogram::Histogram;
use crate::memory::Memory;
use crate::random::Random;
use crate::ring::DeviceFault;

/// How long a device may take for a request before the load gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, Clone)]
pub struct Load {
    /// How many of a hundred requests are writes.
    pub write_percent: u8,
    /// Random or sequential.
    pub random: bool,
    /// The length of each request.
    pub block_bytes: u32,
    /// How many requests each queue has outstanding.
    pub depth: u16,
    /// For how long.
    pub duration: Duration,
    /// Requests per second and queue; as many as there can be if `None`.
    pub rate: Option<u64>,
    /// The part of the disk that is used, from its beginning.
    pub span_bytes: u64,
    /// Where the random numbers begin.
    pub seed: u64,
    /// How long the driver looks for completions, awake, before it sleeps.
    pub spin: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Requests completed.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// The time it took.
    pub elapsed: Duration,
    /// How long each request took.
    pub latency: Histogram,
}

/// The load came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The device broke the rules.
    #[error("the device broke the rules")]
    Fault(#[from] DeviceFault),
    /// The device does not answer.
    #[error("the device has not answered for {0:?}")]
    Stalled(Duration),
    /// A kick could not be written.
    #[error("cannot kick the device")]
    Kick(#[from] std::io::Error),
    /// A thread of the load panicked.
    #[error("the load panicked")]
    Panicked,
}

/// Loads all queues at once.
pub fn run(memory: &Memory, queues: &mut [Queue], load: &Load) -> Result<Outcome, LoadError> {
    let began = Instant::now();
    let count = queues.len() as u64;
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .zip(queues)
            .map(|(index, queue)| {
                scope.spawn(move || Lane::new(memory, queue, load, index, count).run(began))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|outcome| outcome.map_err(|_| LoadError::Panicked)?)
            .collect()
    });
    let mut total = Outcome::default();
    for outcome in outcomes {
        let outcome: Outcome = outcome?;
        total.requests += outcome.requests;
        total.errors += outcome.errors;
        total.latency.merge(&outcome.latency);
        total.elapsed = total.elapsed.max(outcome.elapsed);
    }
    Ok(total)
}

/// One queue under load.
struct Lane<'a> {
    memory: &'a Memory,
    queue: &'a mut Queue,
    load: &'a Load,
    random: Random,
    first_block: u64,
    blocks: u64,
    next_block: u64,
    started_ns: Vec<u64>,
    outcome: Outcome,
}

impl<'a> Lane<'a> {
    fn new(
        memory: &'a Memory,
        queue: &'a mut Queue,
        load: &'a Load,
        index: u64,
        count: u64,
    ) -> Self {
        let all = load.span_bytes / u64::from(load.block_bytes);
        // Sequential lanes each have their own part of the disk, random ones all of it.
        let (first_block, blocks) = if load.random {
            (0, all)
        } else {
            (all / count * index, all / count)
        };
        Self {
            memory,
            queue,
            load,
            random: Random::new(load.seed.wrapping_mul(31).wrapping_add(index)),
            first_block,
            blocks: blocks.max(1),
            next_block: 0,
            started_ns: vec![0; usize::from(load.depth)],
            outcome: Outcome::default(),
        }
    }

    fn run(mut self, began: Instant) -> Result<Outcome, LoadError> {
        let deadline = began + self.load.duration;
        let mut idle: Vec<u16> = (0..self.load.depth).rev().collect();
        let mut sent = 0_u64;
        loop {
            let now = Instant::now();
            let over = now >= deadline;
            if over && idle.len() == usize::from(self.load.depth) {
                break;
            }
            let due = self.load.rate.map_or(u64::MAX, |rate| {
                let elapsed = now.duration_since(began).as_micros();
                u64::try_from(elapsed).unwrap_or(0) * rate / 1_000_000
            });
            while !over
                && sent < due
                && let Some(slot) = idle.pop()
            {
                self.send(slot);
                sent += 1;
                // At once, as a guest does: the device may begin with it while the next is made.
                self.queue.show()?;
            }
            self.pause(idle.len(), due)?;
            while let Some(completion) = self.queue.reap()? {
                self.take(completion);
                idle.push(completion.slot);
            }
        }
        self.outcome.elapsed = began.elapsed();
        Ok(self.outcome)
    }

    /// Waits for a completion, or until the rate allows another request.
    fn pause(&mut self, idle: usize, due: u64) -> Result<(), LoadError> {
        if idle == usize::from(self.load.depth) {
            thread::sleep(Duration::from_micros(50));
        } else if due == u64::MAX || idle == 0 {
            if !self.queue.ring.has_used() && !self.queue.wait(self.load.spin, PATIENCE) {
                return Err(LoadError::Stalled(PATIENCE));
            }
        } else {
            self.queue.wait(Duration::ZERO, Duration::from_millis(1));
        }
        Ok(())
    }

    fn send(&mut self, slot: u16) {
        let block = if self.load.random {
            self.random.below(self.blocks)
        } else {
            self.next_block = (self.next_block + 1) % self.blocks;
            self.next_block
        };
        let write = self.random.below(100) < u64::from(self.load.write_percent);
        let request = Request {
            kind: if write { Kind::Write } else { Kind::Read },
            sector: (self.first_block + block) * u64::from(self.load.block_bytes) / 512,
            len_bytes: self.load.block_bytes,
        };
        self.started_ns[usize::from(slot)] = monotonic_ns();
        self.queue.prepare(self.memory, slot, request);
    }

    fn take(&mut self, completion: Completion) {
        let began = self.started_ns[usize::from(completion.slot)];
        self.outcome
            .latency
            .add(monotonic_ns().saturating_sub(began));
        self.outcome.requests += 1;
        self.outcome.errors += u64::from(completion.status != 0);
    }
}
