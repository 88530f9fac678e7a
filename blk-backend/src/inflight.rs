// SPDX-License-Identifier: Apache-2.0
//! The in-flight region of one queue (vhost-user, "Inflight I/O tracking", split virtqueues): what
//! the next generation of this process needs to know if this one dies now.
//!
//! Written by the worker that owns the queue. Read back once, by its successor, which trusts nothing
//! in it: the memory is shared with the vmm, and a predecessor may have been compromised. From then on
//! this process only writes it: what is in flight, and with how many deaths, it knows from memory of
//! its own, which the vmm cannot change while the kernel reads and writes the buffers of a request.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, compiler_fence};

use device_backend::shared_mem::SharedMem;

use crate::failpoint;

/// The version of the layout.
const VERSION: u16 = 1;
/// The length of the header and of each descriptor's entry.
const ENTRY_BYTES: usize = 16;

/// The most deaths that are counted.
pub const CRASH_LIMIT: u8 = 3;

/// Offsets in the header.
mod header {
    pub(super) const VERSION: usize = 8;
    pub(super) const DESC_NUM: usize = 10;
    pub(super) const LAST_BATCH_HEAD: usize = 12;
    pub(super) const USED_IDX: usize = 14;
}

/// Offsets in the entry of a descriptor. `TRIALS` is in what the specification calls padding: how
/// many deaths the request was present at, times two, plus one once it has been looked at.
mod entry {
    pub(super) const INFLIGHT: usize = 0;
    pub(super) const TRIALS: usize = 1;
    pub(super) const NEXT: usize = 6;
    pub(super) const COUNTER: usize = 8;
}

/// The region says what no backend has written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InflightError {
    /// Another layout.
    #[error("the in-flight region has version {0}")]
    Version(u16),
    /// Another queue's.
    #[error("the in-flight region is for {0} descriptors")]
    DescNum(u16),
    /// It is shorter than the queue needs.
    #[error("the in-flight region is too short")]
    Short,
    /// A batch larger than the queue.
    #[error("the in-flight region lost a batch of {0}")]
    Batch(u16),
    /// A batch that names a descriptor twice, or one that does not exist.
    #[error("the last batch of the in-flight region is not a list")]
    List,
    /// Neither in flight nor not.
    #[error("an entry of the in-flight region holds nonsense")]
    Entry,
}

/// A request that a predecessor had taken and not completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Its descriptor head.
    pub head: u16,
    /// At how many deaths it had been looked at.
    pub deaths: u8,
}

/// The region of one queue.
#[derive(Debug)]
pub struct Region {
    window: SharedMem,
    size: u16,
    counter: u64,
    /// The head that was put into a batch last.
    last_batch_head: u16,
    /// What the entries were made to say, by head.
    heads: Vec<Head>,
}

/// What this process knows of a head.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    in_flight: bool,
    attempts: u8,
}

impl Region {
    /// The region of a queue with `size` descriptors that stands at `used_idx`; comes with what a
    /// predecessor had in flight, oldest first. After a `crash`, each of those has one trial more.
    ///
    /// Whatever is done here may be interrupted at any step and done again from the start.
    pub fn recover(
        window: SharedMem,
        size: u16,
        used_idx: u16,
        crash: bool,
    ) -> Result<(Self, Vec<Replay>), InflightError> {
        if window.len_bytes() < ipc::inflight::queue_bytes(size) {
            return Err(InflightError::Short);
        }
        let mut region = Self {
            window,
            size,
            counter: 0,
            last_batch_head: 0,
            heads: vec![Head::default(); usize::from(size)],
        };
        match region.header(header::VERSION).load(Relaxed) {
            0 => region.format(used_idx),
            VERSION => region.settle_lost_batch(used_idx)?,
            other => return Err(InflightError::Version(u16::from_le(other))),
        }
        region.last_batch_head = u16::from_le(region.header(header::LAST_BATCH_HEAD).load(Relaxed));
        let replays = region.collect(crash)?;
        Ok((region, replays))
    }

    /// Makes a region of zeroes one that has seen everything up to `used_idx`: on a queue that is
    /// not new, a used index of 0 would look like a lost batch.
    fn format(&self, used_idx: u16) {
        self.header(header::DESC_NUM)
            .store(self.size.to_le(), Relaxed);
        self.header(header::USED_IDX)
            .store(used_idx.to_le(), Relaxed);
        then();
        failpoint::step();
        self.header(header::VERSION).store(VERSION.to_le(), Relaxed);
    }

    /// Completes what a predecessor published and did not come to record.
    fn settle_lost_batch(&self, used_idx: u16) -> Result<(), InflightError> {
        let desc_num = u16::from_le(self.header(header::DESC_NUM).load(Relaxed));
        if desc_num != self.size {
            return Err(InflightError::DescNum(desc_num));
        }
        let lost = used_idx.wrapping_sub(u16::from_le(self.header(header::USED_IDX).load(Relaxed)));
        if lost > self.size {
            return Err(InflightError::Batch(lost));
        }
        let mut seen = vec![false; usize::from(self.size)];
        let mut head = u16::from_le(self.header(header::LAST_BATCH_HEAD).load(Relaxed));
        for _ in 0..lost {
            let seen = seen.get_mut(usize::from(head)).ok_or(InflightError::List)?;
            if std::mem::replace(seen, true) {
                return Err(InflightError::List);
            }
            self.inflight(head).store(0, Relaxed);
            failpoint::step();
            head = u16::from_le(self.next(head).load(Relaxed));
        }
        then();
        self.header(header::USED_IDX)
            .store(used_idx.to_le(), Relaxed);
        failpoint::step();
        Ok(())
    }

    /// What is still in flight, oldest first.
    fn collect(&mut self, crash: bool) -> Result<Vec<Replay>, InflightError> {
        let mut found = Vec::new();
        for head in 0..self.size {
            match self.inflight(head).load(Relaxed) {
                0 => continue,
                1 => {}
                _ => return Err(InflightError::Entry),
            }
            let counter = u64::from_le(self.counter(head).load(Relaxed));
            // The highest bit is kept free, so that counting on can never overflow.
            if counter >> 63 != 0 {
                return Err(InflightError::Entry);
            }
            let attempts = self.attempts(head).load(Relaxed);
            let deaths = (attempts >> 1).saturating_add(u8::from(crash && attempts & 1 != 0));
            let deaths = deaths.min(CRASH_LIMIT);
            self.attempts(head).store(deaths << 1, Relaxed);
            failpoint::step();
            self.heads[usize::from(head)] = Head {
                in_flight: true,
                attempts: deaths << 1,
            };
            found.push((counter, Replay { head, deaths }));
        }
        found.sort_unstable_by_key(|(counter, _)| *counter);
        self.counter = found.last().map_or(0, |(counter, _)| counter + 1);
        Ok(found.into_iter().map(|(_, replay)| replay).collect())
    }

    /// Whether a head is in flight: taken, and not yet published as used. No store of the vmm to the
    /// region changes the answer.
    pub fn is_in_flight(&self, head: u16) -> bool {
        self.heads[usize::from(head)].in_flight
    }

    /// A head was taken from the available ring.
    pub fn fetch(&mut self, head: u16) {
        self.counter(head).store(self.counter.to_le(), Relaxed);
        failpoint::step();
        self.attempts(head).store(0, Relaxed);
        then();
        failpoint::step();
        self.inflight(head).store(1, Relaxed);
        self.heads[usize::from(head)] = Head {
            in_flight: true,
            attempts: 0,
        };
        self.counter += 1;
    }

    /// A head is about to be looked at: if the process dies now, it may be the reason.
    pub fn try_out(&mut self, head: u16) {
        let attempts = self.heads[usize::from(head)].attempts | 1;
        self.heads[usize::from(head)].attempts = attempts;
        self.attempts(head).store(attempts, Relaxed);
        failpoint::step();
    }

    /// What is in flight is not the reason if the process dies now.
    pub fn absolve(&mut self) {
        for head in 0..self.size {
            let known = &mut self.heads[usize::from(head)];
            known.attempts &= !1;
            if known.in_flight {
                let attempts = known.attempts;
                self.attempts(head).store(attempts, Relaxed);
            }
        }
    }

    /// Puts a head that was written to the used ring into the batch: if the process dies as soon as
    /// the batch is published, the list says what was in it.
    pub fn link(&mut self, head: u16) {
        let last = std::mem::replace(&mut self.last_batch_head, head);
        self.next(head).store(last.to_le(), Relaxed);
        then();
        failpoint::step();
        self.header(header::LAST_BATCH_HEAD)
            .store(head.to_le(), Relaxed);
    }

    /// The batch of `heads` was published; the used index is `used_idx` now.
    pub fn settle(&mut self, heads: &[u16], used_idx: u16) {
        then();
        for head in heads {
            self.inflight(*head).store(0, Relaxed);
            failpoint::step();
            self.heads[usize::from(*head)].in_flight = false;
        }
        then();
        self.header(header::USED_IDX)
            .store(used_idx.to_le(), Relaxed);
    }

    fn header(&self, offset: usize) -> &AtomicU16 {
        self.window.at(offset)
    }

    fn inflight(&self, head: u16) -> &AtomicU8 {
        self.window.at(self.entry(head) + entry::INFLIGHT)
    }

    fn attempts(&self, head: u16) -> &AtomicU8 {
        self.window.at(self.entry(head) + entry::TRIALS)
    }

    fn next(&self, head: u16) -> &AtomicU16 {
        self.window.at(self.entry(head) + entry::NEXT)
    }

    fn counter(&self, head: u16) -> &AtomicU64 {
        self.window.at(self.entry(head) + entry::COUNTER)
    }

    /// Where the entry of a head is; `head` is below `size`, so it is inside the window.
    fn entry(&self, head: u16) -> usize {
        debug_assert!(head < self.size);
        ENTRY_BYTES + ENTRY_BYTES * usize::from(head)
    }
}

/// Keeps the stores on either side in their order. A process that is killed has done those before
/// the kill and none after it, on whatever processor; only the compiler could swap them.
fn then() {
    compiler_fence(SeqCst);
}

#[cfg(test)]
mod tests;
