// SPDX-License-Identifier: Apache-2.0
//! One queue of a disk: writes, reads and flushes of blocks that no other queue touches, one request to
//! a block at a time. What is known of the blocks outlives the queue.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use loadgen::content::fill;
use loadgen::disk::{Completion, Kind, Queue, Request};
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
    count: u64,
    random: Random,
    pub(super) blocks: Vec<Block>,
    next_write: u64,
    pub(super) sum: Sum,
}

/// A queue while it is driven.
struct Drive<'a> {
    memory: &'a Memory,
    queue: Queue,
    doing: Vec<Option<(Kind, usize)>>,
    idle: Vec<u16>,
    buffer: Vec<u8>,
}

impl Lane {
    /// The part of the queue `index` of `count` of a disk.
    pub(super) fn new(index: u64, count: u64, seed: u64, shared: &Shared) -> Self {
        let blocks = shared.blocks.saturating_sub(index).div_ceil(count);
        Self {
            index,
            count,
            random: Random::new(seed),
            blocks: vec![Block::default(); usize::try_from(blocks).unwrap_or(0)],
            next_write: shared.first_write,
            sum: Sum::default(),
        }
    }

    /// The number on the disk of a block of this lane.
    pub(super) fn number(&self, block: usize) -> u64 {
        block as u64 * self.count + self.index
    }

    /// Drives the queue until there is another order.
    pub(super) fn run(
        &mut self,
        memory: &Memory,
        queue: Queue,
        orders: &Orders,
        shared: &Shared,
    ) -> Result<()> {
        let mut drive = Drive {
            memory,
            queue,
            doing: vec![None; usize::from(DEPTH)],
            idle: (0..DEPTH).rev().collect(),
            buffer: vec![0; BLOCK_BYTES as usize],
        };
        let (mut armed, mut last) = (false, Instant::now());
        loop {
            let order = orders.get();
            let all_idle = drive.idle.len() == usize::from(DEPTH);
            if matches!(order, Order::Reset | Order::Halt) || (order == Order::Finish && all_idle) {
                self.forget(&drive);
                return Ok(());
            }
            let running = shared.running();
            if order == Order::Load {
                while let Some(slot) = drive.idle.pop() {
                    self.send(&mut drive, slot);
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
                    drive.idle.push(completion.slot);
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

    fn forget(&mut self, drive: &Drive<'_>) {
        self.sum.forgotten += drive.doing.iter().flatten().count() as u64;
        for block in &mut self.blocks {
            block.busy = false;
        }
    }

    fn send(&mut self, drive: &mut Drive<'_>, slot: u16) {
        let mut block = 0;
        for _ in 0..100 {
            let random = self.random.below(self.blocks.len() as u64);
            block = usize::try_from(random).unwrap_or(0);
            if !self.blocks[block].busy {
                break;
            }
        }
        let number = self.number(block);
        let state = &mut self.blocks[block];
        let kind = match self.random.below(100) {
            _ if state.busy => Kind::Flush,
            0..5 => Kind::Flush,
            _ if state.first.is_none() => Kind::Read,
            5..45 => Kind::Read,
            _ => Kind::Write,
        };
        let mut request = Request {
            kind,
            sector: number * u64::from(BLOCK_BYTES) / 512,
            len_bytes: BLOCK_BYTES,
        };
        match kind {
            Kind::Write => {
                self.next_write += 1;
                state.busy = true;
                state.submitted(self.next_write);
                fill(&mut drive.buffer, number, self.next_write);
            }
            Kind::Read => {
                state.busy = true;
                // What is there before must not pass for what is read.
                drive.buffer.fill(0xee);
            }
            _ => (request.sector, request.len_bytes) = (0, 0),
        }
        if kind != Kind::Flush {
            drive.memory.write(&drive.buffer, drive.queue.data(slot));
        }
        drive.queue.prepare(drive.memory, slot, request);
        drive.doing[usize::from(slot)] = Some((kind, block));
    }

    fn take(&mut self, drive: &mut Drive<'_>, completion: Completion) -> Result<()> {
        let slot = completion.slot;
        let doing = drive
            .doing
            .get_mut(usize::from(slot))
            .and_then(Option::take);
        let Some((kind, block)) = doing else {
            bail!(
                "queue {}: slot {slot} was completed, and was idle",
                self.index
            );
        };
        let number = self.number(block);
        if completion.status != 0 {
            let status = completion.status;
            bail!(
                "queue {}: {kind:?} of block {number}: status {status}",
                self.index
            );
        }
        let state = &mut self.blocks[block];
        match kind {
            Kind::Write => {
                state.busy = false;
                state.acknowledged();
                self.sum.writes += 1;
            }
            Kind::Read => {
                state.busy = false;
                self.sum.reads += 1;
                drive.memory.read(&mut drive.buffer, drive.queue.data(slot));
                state.found(&drive.buffer, number)?;
            }
            _ => self.sum.flushes += 1,
        }
        Ok(())
    }
}
