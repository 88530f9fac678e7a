// SPDX-License-Identifier: Apache-2.0
//! The backend dies after the first, second, third, … store to memory that outlives it: the real
//! process, whose worker is run one instruction at a time from the moment at which it is kicked until
//! all is completed and settled.
//!
//! A death between two such stores leaves what the first of them left, so these are all there are.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Acquire};
use std::time::Duration;

use device_backend::shared_mem::SharedMem;

use super::stepper::Stepper;
use super::{BLOCK_BYTES, CrashTestError, Harness, PATIENCE, QUEUE_SIZE};
use crate::connection::Connection;
use crate::content::{fill, sequence};
use crate::disk::{Kind, Request};
use crate::supervised::Generation;

/// The name of the thread that serves the queue.
const WORKER: &str = "vring_worker";
/// The used index in the header of the in-flight region.
const SETTLED: usize = 14;
/// A backend that takes so many instructions for a batch turns in circles.
const STEPS_MAX: u64 = 5_000_000;

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many backends died, each one store later than the one before.
    pub deaths: u32,
    /// How many instructions were carried out one by one.
    pub steps: u64,
    /// Requests that were made; each was answered once.
    pub requests: usize,
    /// How many blocks of the image do not hold what was written last.
    pub wrong: usize,
}

/// Sends a batch of writes, as deep as the harness is, to each of these backends, until one lives long
/// enough to complete it.
pub fn run(harness: &mut Harness) -> Result<Outcome, CrashTestError> {
    let mut outcome = Outcome::default();
    let lasting = Lasting::of(harness)?;
    let image = File::open(&harness.options.image)?;
    let mut next = harness.bring_up(false)?;
    loop {
        let round = outcome.deaths + 1;
        let (completed, died) = live(harness, &lasting, next, round, &mut outcome)?;
        drop(died);
        next = harness.bring_up(false)?;
        harness.take_good(0, usize::from(harness.options.depth))?;
        outcome.requests += usize::from(harness.options.depth);
        if harness.queues[0].wait(Duration::ZERO, Duration::from_millis(1)) {
            return Err(CrashTestError::Unexpected("more was used than was offered"));
        }
        outcome.wrong += wrong(harness, &image, round)?;
        if completed {
            next.0.kill()?.ok_or(CrashTestError::Unfenced)?;
            return Ok(outcome);
        }
        outcome.deaths = round;
    }
}

/// Lets a backend begin a batch and kills it after so many stores; whether it had settled it all.
fn live(
    harness: &mut Harness,
    lasting: &Lasting,
    (generation, connection): (Generation, Connection),
    stores: u32,
    outcome: &mut Outcome,
) -> Result<(bool, Connection), CrashTestError> {
    let worker = Stepper::stop(generation.pid(), WORKER)?;
    let target = send(harness, stores)?;
    let mut before = lasting.look();
    let mut seen = 0;
    let mut completed = false;
    for _ in 0..STEPS_MAX {
        worker.step()?;
        outcome.steps += 1;
        let now = lasting.look();
        if now != before {
            seen += 1;
            before = now;
        }
        completed = lasting.settled() == target;
        if completed || seen == stores {
            break;
        }
    }
    if !completed && seen < stores {
        return Err(CrashTestError::Quiet(PATIENCE));
    }
    generation.end()?;
    worker.bury()?;
    generation.kill()?.ok_or(CrashTestError::Unfenced)?;
    Ok((completed, connection))
}

/// Offers a write in every slot and kicks whether that is asked for or not; where the used index will
/// be when all of them are completed.
fn send(harness: &mut Harness, round: u32) -> Result<u16, CrashTestError> {
    let mut bytes = vec![0; BLOCK_BYTES as usize];
    let used = harness.places[0].used_idx();
    for slot in 0..harness.options.depth {
        fill(&mut bytes, u64::from(slot), u64::from(round));
        harness.memory.write(&bytes, harness.queues[0].data(slot));
        let request = Request {
            kind: Kind::Write,
            sector: u64::from(slot) * u64::from(BLOCK_BYTES) / 512,
            len_bytes: BLOCK_BYTES,
        };
        harness.queues[0].prepare(&harness.memory, slot, request);
    }
    harness.queues[0].show()?;
    harness.queues[0].fds.kick.write(1)?;
    Ok(used.wrapping_add(harness.options.depth))
}

/// How many blocks do not hold the write of this round.
fn wrong(harness: &Harness, image: &File, round: u32) -> Result<usize, CrashTestError> {
    let mut bytes = vec![0; BLOCK_BYTES as usize];
    let mut wrong = 0;
    for slot in 0..u64::from(harness.options.depth) {
        image.read_exact_at(&mut bytes, slot * u64::from(BLOCK_BYTES))?;
        wrong += usize::from(sequence(&bytes, slot) != Ok(u64::from(round)));
    }
    Ok(wrong)
}

/// The memory of the queue that a backend writes and its successor, or the driver, reads.
struct Lasting {
    used: SharedMem,
    region: SharedMem,
}

impl Lasting {
    fn of(harness: &Harness) -> Result<Self, CrashTestError> {
        let len_bytes = ipc::inflight::queue_bytes(QUEUE_SIZE);
        let region = SharedMem::of_file(harness.slot.inflight(), len_bytes);
        Ok(Self {
            used: harness.places[0].used.clone(),
            region: region.map_err(|e| CrashTestError::Io(std::io::Error::other(e)))?,
        })
    }

    /// All that is in it.
    fn look(&self) -> Vec<u64> {
        let words = |window: &SharedMem| {
            let offsets = (0..window.len_bytes() / 8 * 8).step_by(8);
            let words = offsets.map(|offset| window.at::<AtomicU64>(offset).load(Acquire));
            words.collect::<Vec<_>>()
        };
        [words(&self.used), words(&self.region)].concat()
    }

    /// The used index as it was settled last.
    fn settled(&self) -> u16 {
        u16::from_le(self.region.at::<AtomicU16>(SETTLED).load(Acquire))
    }
}
