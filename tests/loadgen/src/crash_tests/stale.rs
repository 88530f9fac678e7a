// SPDX-License-Identifier: Apache-2.0
//! What a dead backend's requests still do, on storage that takes its time for them.
//!
//! One generation serves the disk through a slow device and is killed with requests in flight. The
//! next one serves the same storage without the delay, replays them, and then the driver overwrites
//! every block with a newer write and uses every read buffer for something else. When the delay is
//! over, nothing of that may have changed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use super::{BLOCK_BYTES, CrashTestError, Harness, PATIENCE};
use crate::content::{fill, sequence};
use crate::disk::{Kind, Request};
use crate::file::aligned;
use crate::histogram::Histogram;
use crate::supervised::{Fence, Generation};

/// How much later than the delay the storage may be.
const MARGIN: Duration = Duration::from_millis(500);
/// Blocks from here on are read and never written by the driver.
const READ_BLOCKS: u64 = 1024;

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The same storage as the harness's image, without the delay.
    pub fast: PathBuf,
    /// The delay of the harness's image.
    pub delay: Duration,
    /// How often.
    pub rounds: u32,
    /// How much of a dead generation is waited for.
    pub fence: Fence,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Blocks that were overwritten with something newer.
    pub overwritten: u64,
    /// Those that held the dead generation's write afterwards.
    pub stale: u64,
    /// Those that held neither.
    pub torn: u64,
    /// Read buffers that were used for something else.
    pub reused: u64,
    /// Those that the dead generation's read changed afterwards.
    pub late: u64,
    /// How long the fence took.
    pub drains: Histogram,
}

/// Does it on the harness's image, which is slow.
pub fn run(harness: &mut Harness, plan: &Plan) -> Result<Outcome, CrashTestError> {
    let mut outcome = Outcome::default();
    let direct = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&plan.fast)?;
    for number in 0..u64::from(plan.rounds) {
        let round = Round {
            plan,
            storage: &direct,
            old: 2 * number + 1,
            new: 2 * number + 2,
        };
        round.run(harness, &mut outcome)?;
    }
    Ok(outcome)
}

struct Round<'a> {
    plan: &'a Plan,
    storage: &'a File,
    /// The number of the write that the dead generation has in flight.
    old: u64,
    /// The number of the write that comes after it.
    new: u64,
}

impl Round<'_> {
    fn run(&self, harness: &mut Harness, outcome: &mut Outcome) -> Result<(), CrashTestError> {
        let (queues, depth) = (harness.queues.len(), harness.options.depth);
        for (_, _, block) in reads(queues, depth) {
            self.store(block, self.old)?;
        }
        let (first, connection) = harness.bring_up(false)?;
        let began = Instant::now();
        self.send(harness, Kind::Write)?;
        self.send(harness, Kind::Read)?;
        wait_until_in_flight(&first, u32::from(depth) * queues_u32(queues))?;
        let drain = first.kill_behind(self.plan.fence)?;
        let drain = drain.ok_or(CrashTestError::Unfenced)?;
        drop(connection);
        let drain_ns = u64::try_from(drain.as_nanos()).unwrap_or(u64::MAX);
        outcome.drains.add(drain_ns);
        harness.slot.move_to(&self.plan.fast)?;
        let (second, _connection) = harness.bring_up(false)?;
        for queue in 0..queues {
            harness.take_good(queue, usize::from(depth))?;
        }
        self.go_on(harness)?;
        thread::sleep((self.plan.delay + MARGIN).saturating_sub(began.elapsed()));
        self.judge(harness, outcome)?;
        second.kill()?.ok_or(CrashTestError::Unfenced)?;
        let slow = harness.options.image.clone();
        Ok(harness.slot.move_to(&slow)?)
    }

    /// Sends half of each queue's requests.
    fn send(&self, harness: &mut Harness, kind: Kind) -> Result<(), CrashTestError> {
        let (queues, depth) = (harness.queues.len(), harness.options.depth);
        let all = match kind {
            Kind::Write => writes(queues, depth),
            _ => reads(queues, depth),
        };
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        for (queue, slot, block) in all {
            if kind == Kind::Write {
                fill(&mut bytes, block, self.old);
                let data = harness.queues[queue].data(slot);
                harness.memory.write(&bytes, data);
            }
            harness.send(queue, slot, request(kind, block))?;
        }
        Ok(())
    }

    /// What the driver does once everything was answered: it writes each block anew, from a buffer
    /// into which it had read before. The dead generation's write would take its data from where
    /// they were, and they are still there.
    fn go_on(&self, harness: &mut Harness) -> Result<(), CrashTestError> {
        let (queues, depth) = (harness.queues.len(), harness.options.depth);
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        for (queue, slot, block) in writes(queues, depth) {
            let slot = slot + depth / 2;
            fill(&mut bytes, block, self.new);
            let data = harness.queues[queue].data(slot);
            harness.memory.write(&bytes, data);
            harness.send(queue, slot, request(Kind::Write, block))?;
        }
        for queue in 0..queues {
            harness.take_good(queue, usize::from(depth / 2))?;
        }
        Ok(())
    }

    /// Looks at what is left of that.
    fn judge(&self, harness: &Harness, outcome: &mut Outcome) -> Result<(), CrashTestError> {
        let (queues, depth) = (harness.queues.len(), harness.options.depth);
        for (_, _, block) in writes(queues, depth) {
            outcome.overwritten += 1;
            match self.load(block)? {
                Some(found) if found == self.new => {}
                Some(found) if found == self.old => outcome.stale += 1,
                _ => outcome.torn += 1,
            }
        }
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        for (queue, slot, block) in writes(queues, depth) {
            outcome.reused += 1;
            let data = harness.queues[queue].data(slot + depth / 2);
            harness.memory.read(&mut bytes, data);
            outcome.late += u64::from(sequence(&bytes, block) != Ok(self.new));
        }
        Ok(())
    }

    /// Puts a block onto the storage, behind everybody's back.
    fn store(&self, block: u64, number: u64) -> Result<(), CrashTestError> {
        let mut buffer = vec![0; 2 * BLOCK_BYTES as usize];
        let bytes = aligned(&mut buffer);
        fill(bytes, block, number);
        let offset = block * u64::from(BLOCK_BYTES);
        Ok(self.storage.write_all_at(bytes, offset)?)
    }

    /// The number of the write that a block on the storage holds.
    fn load(&self, block: u64) -> Result<Option<u64>, CrashTestError> {
        let mut buffer = vec![0; 2 * BLOCK_BYTES as usize];
        let bytes = aligned(&mut buffer);
        let offset = block * u64::from(BLOCK_BYTES);
        self.storage.read_exact_at(bytes, offset)?;
        Ok(sequence(bytes, block).ok())
    }
}

/// Queue, slot and block of each write: the first half of the slots.
fn writes(queues: usize, depth: u16) -> Vec<(usize, u16, u64)> {
    let slots =
        move |queue| (0..depth / 2).map(move |slot| (queue, slot, block(queue, depth, slot)));
    (0..queues).flat_map(slots).collect()
}

/// Queue, slot and block of each read: the other half.
fn reads(queues: usize, depth: u16) -> Vec<(usize, u16, u64)> {
    let at = move |queue, slot| (queue, slot, READ_BLOCKS + block(queue, depth, slot));
    let slots = move |queue| (depth / 2..depth).map(move |slot| at(queue, slot));
    (0..queues).flat_map(slots).collect()
}

fn block(queue: usize, depth: u16, slot: u16) -> u64 {
    queue as u64 * u64::from(depth) + u64::from(slot)
}

fn request(kind: Kind, block: u64) -> Request {
    Request {
        kind,
        sector: block * u64::from(BLOCK_BYTES) / 512,
        len_bytes: BLOCK_BYTES,
    }
}

fn queues_u32(queues: usize) -> u32 {
    u32::try_from(queues).unwrap_or(u32::MAX)
}

/// Waits until the backend has given everything to its engine, and the engine to the kernel.
fn wait_until_in_flight(generation: &Generation, count: u32) -> Result<(), CrashTestError> {
    let began = Instant::now();
    let queues = &generation.health.queues;
    while queues
        .iter()
        .map(|q| q.in_flight.load(Relaxed))
        .sum::<u32>()
        < count
    {
        if began.elapsed() > PATIENCE {
            return Err(CrashTestError::Quiet(PATIENCE));
        }
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(30));
    Ok(())
}
