// SPDX-License-Identifier: Apache-2.0
//! Load that checks what it reads, and a log of what was promised, to check the image against.
//!
//! A thread for each queue writes, reads and flushes blocks that no other queue touches, one request
//! to a block at a time. A read must return the last write that was acknowledged.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::content::{Mismatch, sequence};
use crate::disk::{Completion, Kind, Queue};
use crate::gaps::Gaps;
use crate::lane::{Drive, Known, Lane, May, Taken};
use crate::load::LoadError;
use crate::memory::Memory;
use crate::random::Random;

/// How long a device may usually take for a request.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, Clone)]
pub struct Verify {
    /// The length of a block.
    pub block_bytes: u32,
    /// How many requests each queue has outstanding.
    pub depth: u16,
    /// For how long at least.
    pub duration: Duration,
    /// How many requests each queue does at least, however long they take.
    pub requests: u64,
    /// The number of blocks, from the beginning of the disk.
    pub blocks: u64,
    /// Where the random numbers begin.
    pub seed: u64,
    /// How long the device may take for a request.
    pub patience: Duration,
    /// Set when it is to end sooner than that.
    pub stop: Arc<AtomicBool>,
    /// Who wants to know when nothing completes.
    pub gaps: Option<Arc<Gaps>>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Writes acknowledged.
    pub writes: u64,
    /// Reads checked.
    pub reads: u64,
    /// Flushes done.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// The longest time without any completion, of the queue that had the longest.
    pub longest_pause: Duration,
    /// Blocks that held something else.
    pub mismatches: Vec<Mismatch>,
}

/// The log of what was written and what was acknowledged, for all queues.
pub struct Log(Mutex<BufWriter<Box<dyn Write + Send>>>);

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Log {
    /// Begins a log.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::to(File::create(path)?))
    }

    /// A log that goes somewhere else.
    pub fn to(writer: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(BufWriter::new(Box::new(writer))))
    }

    fn note(&self, what: char, block: u64, sequence: u64) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written misses writes, which the check then reports.
        let _ = writeln!(log, "{what} {block} {sequence}");
    }

    /// Writes out what is buffered.
    pub fn finish(self) -> io::Result<()> {
        self.0
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .flush()
    }
}

/// Writes, reads and checks on all queues at once.
pub fn run(
    memory: &Memory,
    queues: &mut [Queue],
    verify: &Verify,
    log: &Log,
) -> Result<Outcome, LoadError> {
    let count = queues.len() as u64;
    let outcomes: Vec<Result<Outcome, LoadError>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .zip(queues)
            .map(|(index, queue)| {
                let random = Random::new(verify.seed.wrapping_mul(31).wrapping_add(index));
                let loaded = Loaded {
                    drive: Drive::new(memory, queue, verify.depth, verify.block_bytes),
                    lane: Lane::new(index, count, verify.blocks, 0, random),
                    verify,
                    log,
                    outcome: Outcome::default(),
                };
                scope.spawn(move || loaded.run())
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|outcome| outcome.map_err(|_| LoadError::Panicked)?)
            .collect()
    });
    let mut total = Outcome::default();
    for outcome in outcomes {
        let outcome = outcome?;
        total.writes += outcome.writes;
        total.reads += outcome.reads;
        total.flushes += outcome.flushes;
        total.errors += outcome.errors;
        total.longest_pause = total.longest_pause.max(outcome.longest_pause);
        total.mismatches.extend(outcome.mismatches);
    }
    Ok(total)
}

/// The writes that a block may hold: a write that failed may have been done or not.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    submitted: u64,
    acknowledged: u64,
}

impl Known for Block {
    fn may(&self) -> May {
        match self.acknowledged {
            0 => May::Write,
            _ => May::Both,
        }
    }

    fn submitted(&mut self, _: &mut u64) -> u64 {
        self.submitted += 1;
        self.submitted
    }

    fn acknowledged(&mut self) -> u64 {
        self.acknowledged = self.submitted;
        self.acknowledged
    }

    fn found(&mut self, bytes: &[u8], number: u64) -> Result<(), Mismatch> {
        check(bytes, number, (self.acknowledged, self.submitted))
    }
}

/// One queue.
struct Loaded<'a> {
    drive: Drive<'a>,
    lane: Lane<Block>,
    verify: &'a Verify,
    log: &'a Log,
    outcome: Outcome,
}

impl Loaded<'_> {
    fn run(mut self) -> Result<Outcome, LoadError> {
        let deadline = Instant::now() + self.verify.duration;
        let mut idle: Vec<u16> = (0..self.verify.depth).rev().collect();
        let mut last = Instant::now();
        let mut sent = 0;
        loop {
            let done = sent >= self.verify.requests && Instant::now() >= deadline;
            let over = done || self.verify.stop.load(Ordering::Relaxed);
            if over && idle.len() == usize::from(self.verify.depth) {
                return Ok(self.outcome);
            }
            while !over && let Some(slot) = idle.pop() {
                let request = self.lane.send(&mut self.drive, slot);
                if request.kind == Kind::Write {
                    self.log.note('S', request.block, request.write);
                }
                sent += 1;
            }
            self.drive.queue.show()?;
            let patience = self.verify.patience;
            if !self.drive.queue.wait(Duration::ZERO, patience) {
                return Err(LoadError::Stalled(patience));
            }
            let pause = std::mem::replace(&mut last, Instant::now()).elapsed();
            self.outcome.longest_pause = self.outcome.longest_pause.max(pause);
            if let Some(gaps) = &self.verify.gaps {
                gaps.event();
            }
            while let Some(completion) = self.drive.queue.reap()? {
                self.take(completion);
                idle.push(completion.slot);
            }
        }
    }

    fn take(&mut self, completion: Completion) {
        let outcome = &mut self.outcome;
        match self.lane.take(&mut self.drive, completion) {
            Taken::Idle => {}
            Taken::Failed(..) => outcome.errors += 1,
            Taken::Mismatch(mismatch) => {
                outcome.reads += 1;
                outcome.mismatches.push(mismatch);
            }
            Taken::Done(done) => match done.kind {
                Kind::Write => {
                    outcome.writes += 1;
                    self.log.note('A', done.block, done.write);
                }
                Kind::Read => outcome.reads += 1,
                _ => outcome.flushes += 1,
            },
        }
    }
}

fn check(bytes: &[u8], block: u64, (least, most): (u64, u64)) -> Result<(), Mismatch> {
    match sequence(bytes, block)? {
        found if (least..=most).contains(&found) => Ok(()),
        found => {
            let expected = format!("{least} to {most}");
            Err(Mismatch::Sequence {
                block,
                found,
                expected,
            })
        }
    }
}

/// Checks an image against a log: every block must hold the last write that was acknowledged, or
/// one that was made after it. Returns the number of blocks checked.
pub fn check_image(log: &Path, image: &Path, block_bytes: u32) -> io::Result<(u64, Vec<Mismatch>)> {
    let mut blocks = std::collections::BTreeMap::<u64, (u64, u64)>::new();
    for line in BufReader::new(File::open(log)?).lines() {
        let line = line?;
        let mut fields = line.split(' ');
        let what = fields.next();
        let mut number = || fields.next()?.parse::<u64>().ok();
        let (Some(block), Some(sequence)) = (number(), number()) else {
            continue;
        };
        let state = blocks.entry(block).or_default();
        match what {
            Some("A") => state.0 = state.0.max(sequence),
            _ => state.1 = state.1.max(sequence),
        }
    }
    let image = File::open(image)?;
    let mut bytes = vec![0; block_bytes as usize];
    let (mut checked, mut mismatches) = (0, Vec::new());
    for (block, range) in blocks {
        if range.0 == 0 {
            continue;
        }
        image.read_exact_at(&mut bytes, block * u64::from(block_bytes))?;
        mismatches.extend(check(&bytes, block, range).err());
        checked += 1;
    }
    Ok((checked, mismatches))
}
