// SPDX-License-Identifier: Apache-2.0
//! One queue's part of a disk: blocks that no other queue touches, one request to a block at a time.

use crate::content::{Mismatch, fill};
use crate::disk::{Completion, Kind, Queue, Request};
use crate::memory::Memory;
use crate::random::Random;

/// What a driver knows of one block.
pub trait Known: Clone + Default {
    /// Whether it may be written and read; what may not be written yet is read.
    fn may(&self) -> May;

    /// It is written; `next` is the number of the next write to any block of the lane. Returns the
    /// number of this one.
    fn submitted(&mut self, next: &mut u64) -> u64;

    /// The write that was submitted last has been done. Returns its number.
    fn acknowledged(&mut self) -> u64;

    /// A read of the block `number` found this.
    fn found(&mut self, bytes: &[u8], number: u64) -> Result<(), Mismatch>;
}

/// What may be done to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum May {
    /// It can only be written: there is nothing to compare a read with.
    Write,
    /// It can only be read: what it holds is not known.
    Read,
    /// Both.
    Both,
}

/// A request that has been prepared, or is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// What it does.
    pub kind: Kind,
    /// The block's number on the disk; any block for a flush.
    pub block: u64,
    /// The number of the write; 0 for others.
    pub write: u64,
}

/// What became of a request.
#[derive(Debug)]
pub enum Taken {
    /// It was done, and what was read may be there.
    Done(Done),
    /// It failed, with this status.
    Failed(Done, u8),
    /// What was read may not be there.
    Mismatch(Mismatch),
    /// Its slot was idle.
    Idle,
}

/// One queue's blocks, which outlive the queue.
#[derive(Debug)]
pub struct Lane<B> {
    index: u64,
    count: u64,
    random: Random,
    next_write: u64,
    busy: Vec<bool>,
    /// What is known of them.
    pub blocks: Vec<B>,
}

/// A queue while it is driven, and what its slots do.
#[derive(Debug)]
pub struct Drive<'a> {
    memory: &'a Memory,
    /// The queue.
    pub queue: &'a mut Queue,
    doing: Vec<Option<(Kind, usize)>>,
    buffer: Vec<u8>,
}

impl<'a> Drive<'a> {
    /// A queue of so many slots, for blocks of this length.
    pub fn new(memory: &'a Memory, queue: &'a mut Queue, depth: u16, block_bytes: u32) -> Self {
        Self {
            memory,
            queue,
            doing: vec![None; usize::from(depth)],
            buffer: vec![0; block_bytes as usize],
        }
    }
}

impl<B: Known> Lane<B> {
    /// The blocks of the queue `index` of `count`, of a disk of `blocks` blocks, whose writes are
    /// numbered from behind `first_write`.
    pub fn new(index: u64, count: u64, blocks: u64, first_write: u64, random: Random) -> Self {
        let blocks = blocks.saturating_sub(index).div_ceil(count.max(1));
        let blocks = usize::try_from(blocks).unwrap_or(0);
        Self {
            index,
            count,
            random,
            next_write: first_write,
            busy: vec![false; blocks],
            blocks: vec![B::default(); blocks],
        }
    }

    /// The number on the disk of a block of this queue.
    pub fn number(&self, block: usize) -> u64 {
        block as u64 * self.count + self.index
    }

    /// Forgets the requests of a queue that is no more. Returns how many there were.
    pub fn forget(&mut self, drive: &Drive<'_>) -> u64 {
        self.busy.fill(false);
        drive.doing.iter().flatten().count() as u64
    }

    /// Prepares a request in an idle slot.
    pub fn send(&mut self, drive: &mut Drive<'_>, slot: u16) -> Done {
        let block = self.pick();
        let number = self.number(block);
        let len_bytes = u32::try_from(drive.buffer.len()).unwrap_or(u32::MAX);
        let state = &mut self.blocks[block];
        let kind = match (self.random.below(100), state.may()) {
            _ if self.busy[block] => Kind::Flush,
            (0..5, _) => Kind::Flush,
            (_, May::Read) | (5..45, May::Both) => Kind::Read,
            _ => Kind::Write,
        };
        let mut request = Request {
            kind,
            sector: number * u64::from(len_bytes) / 512,
            len_bytes,
        };
        let mut write = 0;
        match kind {
            Kind::Write => {
                write = state.submitted(&mut self.next_write);
                fill(&mut drive.buffer, number, write);
            }
            // What is there before must not pass for what is read.
            Kind::Read => drive.buffer.fill(0xee),
            _ => (request.sector, request.len_bytes) = (0, 0),
        }
        if kind != Kind::Flush {
            self.busy[block] = true;
            drive.memory.write(&drive.buffer, drive.queue.data(slot));
        }
        drive.queue.prepare(drive.memory, slot, request);
        drive.doing[usize::from(slot)] = Some((kind, block));
        Done {
            kind,
            block: number,
            write,
        }
    }

    /// A block, idle if one is found soon.
    fn pick(&mut self) -> usize {
        let mut block = 0;
        for _ in 0..100 {
            let random = self.random.below(self.blocks.len() as u64);
            block = usize::try_from(random).unwrap_or(0);
            if !self.busy[block] {
                break;
            }
        }
        block
    }

    /// Takes a completion, and checks what was read.
    pub fn take(&mut self, drive: &mut Drive<'_>, completion: Completion) -> Taken {
        let slot = drive.doing.get_mut(usize::from(completion.slot));
        let Some((kind, block)) = slot.and_then(Option::take) else {
            return Taken::Idle;
        };
        let number = self.number(block);
        let state = &mut self.blocks[block];
        if kind != Kind::Flush {
            self.busy[block] = false;
        }
        let mut done = Done {
            kind,
            block: number,
            write: 0,
        };
        if completion.status != 0 {
            return Taken::Failed(done, completion.status);
        }
        match kind {
            Kind::Write => done.write = state.acknowledged(),
            Kind::Read => {
                let data = drive.queue.data(completion.slot);
                drive.memory.read(&mut drive.buffer, data);
                if let Err(mismatch) = state.found(&drive.buffer, number) {
                    return Taken::Mismatch(mismatch);
                }
            }
            _ => {}
        }
        Taken::Done(done)
    }
}
