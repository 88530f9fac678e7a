// SPDX-License-Identifier: Apache-2.0
//! One queue of a disk: writes, reads and flushes of blocks that no other queue touches, one request to
//! a block at a time. What is known of the blocks outlives the queue.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use loadgen::disk::{Completion, Kind, Queue};
use loadgen::lane::{self, Done, Drive, Taken};
use loadgen::memory::Memory;
use loadgen::random::Random;

use super::Shared;
use super::block::Block;
use super::orders::{Order, Orders};
use crate::BLOCK_BYTES;

/// How many requests are outstanding.
pub(super) const DEPTH: u16 = 32;
/// How often an order is looked for.
const TICK: Duration = Duration::from_millis(20);
/// How long a request may take: longer than anything that a storm does to it.
const PATIENCE: Duration = Duration::from_secs(150);

/// What was done.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) writes: u64,
    pub(super) reads: u64,
    pub(super) flushes: u64,
    /// Requests that were outstanding when the device was reset or the guest rebooted.
    pub(super) forgotten: u64,
    pub(super) longest: Duration,
}

/// One queue's part of a disk.
pub(super) struct Lane {
    index: u64,
    pub(super) blocks: lane::Lane<Block>,
    pub(super) sum: Sum,
}

impl Lane {
    /// The part of the queue `index` of `count` of a disk.
    pub(super) fn new(index: u64, count: u64, seed: u64, shared: &Shared) -> Self {
        let (blocks, first) = (shared.blocks, shared.first_write);
        Self {
            index,
            blocks: lane::Lane::new(index, count, blocks, first, Random::new(seed)),
            sum: Sum::default(),
        }
    }

    /// Drives the queue until there is another order.
    pub(super) fn run(
        &mut self,
        memory: &Memory,
        mut queue: Queue,
        orders: &Orders,
        shared: &Shared,
    ) -> Result<()> {
        let mut drive = Drive::new(memory, &mut queue, DEPTH, BLOCK_BYTES);
        let mut idle: Vec<u16> = (0..DEPTH).rev().collect();
        let (mut armed, mut last) = (false, Instant::now());
        loop {
            let order = orders.get();
            let all_idle = idle.len() == usize::from(DEPTH);
            if matches!(order, Order::Reset | Order::Halt) || (order == Order::Finish && all_idle) {
                self.sum.forgotten += self.blocks.forget(&drive);
                return Ok(());
            }
            let running = shared.running();
            if order == Order::Load {
                while let Some(slot) = idle.pop() {
                    self.blocks.send(&mut drive, slot);
                }
            }
            drive.queue.show()?;
            drop(running);
            // What is used without a call is not looked at: no call may be lost.
            let came = match armed {
                true => drive.queue.called(TICK),
                false => {
                    drive.queue.ring.enable_calls();
                    drive.queue.ring.has_used() || drive.queue.called(TICK)
                }
            };
            armed = !came;
            if came {
                let _running = shared.running();
                drive.queue.ring.disable_calls();
                let pause = std::mem::replace(&mut last, Instant::now()).elapsed();
                self.sum.longest = self.sum.longest.max(pause);
                while let Some(completion) = drive.queue.reap()? {
                    self.take(&mut drive, completion)?;
                    idle.push(completion.slot);
                }
            } else if last.elapsed() > PATIENCE {
                let what = match drive.queue.ring.has_used() {
                    true => "requests were completed without an interrupt",
                    false => "requests were not completed",
                };
                bail!("queue {}: {what} for {} s", self.index, PATIENCE.as_secs());
            }
        }
    }

    fn take(&mut self, drive: &mut Drive<'_>, completion: Completion) -> Result<()> {
        let (index, slot) = (self.index, completion.slot);
        match self.blocks.take(drive, completion) {
            Taken::Done(done) => match done.kind {
                Kind::Write => self.sum.writes += 1,
                Kind::Read => self.sum.reads += 1,
                _ => self.sum.flushes += 1,
            },
            Taken::Failed(Done { kind, block, .. }, status) => {
                bail!("queue {index}: {kind:?} of block {block}: status {status}")
            }
            Taken::Mismatch(mismatch) => return Err(mismatch.into()),
            Taken::Idle => bail!("queue {index}: slot {slot} was completed, and was idle"),
        }
        Ok(())
    }
}
