// SPDX-License-Identifier: Apache-2.0
//! The in-flight region of one queue (vhost-user, "Inflight I/O tracking", split virtqueues): what
//! the next generation of this process needs if this one dies now.
//!
//! The worker that owns the queue writes it. The next generation reads it once and trusts nothing
//! in it: the vmm shares the memory, and an earlier generation may have been compromised. After
//! that this process only writes it: it keeps the requests in flight and their crash counts in
//! memory of its own, which the vmm cannot change while the kernel reads and writes the buffers of
//! a request.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, compiler_fence};

use device_backend::shared_mem::SharedMem;

use crate::failpoint;

/// The version of the layout.
const VERSION: u16 = 1;
/// The length of the header and of each descriptor's entry.
const ENTRY_BYTES: usize = 16;

/// The most crashes counted per request.
pub const CRASH_LIMIT: u8 = 3;

/// Offsets in the header.
mod header {
    pub(super) const VERSION: usize = 8;
    pub(super) const DESC_NUM: usize = 10;
    pub(super) const LAST_BATCH_HEAD: usize = 12;
    pub(super) const USED_IDX: usize = 14;
}

/// Offsets in the entry of a descriptor. `TRIALS` is in the specification's padding: twice the
/// number of crashes that the request may have caused, plus one once this generation has begun to
/// parse it.
mod entry {
    pub(super) const INFLIGHT: usize = 0;
    pub(super) const TRIALS: usize = 1;
    pub(super) const NEXT: usize = 6;
    pub(super) const COUNTER: usize = 8;
}

/// The region contains what no backend has written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InflightError {
    /// The layout has an unknown version.
    #[error("the in-flight region has version {0}")]
    Version(u16),
    /// The region is for a queue of another size.
    #[error("the in-flight region is for {0} descriptors")]
    DescNum(u16),
    /// The region is shorter than the queue needs.
    #[error("the in-flight region is too short")]
    Short,
    /// The last batch is larger than the queue.
    #[error("the in-flight region lost a batch of {0}")]
    Batch(u16),
    /// The last batch names a descriptor twice, or one that does not exist.
    #[error("the last batch of the in-flight region is not a list")]
    List,
    /// The flag of an entry is neither 0 nor 1.
    #[error("an entry of the in-flight region holds nonsense")]
    Entry,
}

/// A request that an earlier generation took and did not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Its descriptor head.
    pub head: u16,
    /// How many crashes it may have caused.
    pub deaths: u8,
}

/// The region of one queue.
#[derive(Debug)]
pub struct Region {
    window: SharedMem,
    size: u16,
    counter: u64,
    /// The head that was last added to a batch.
    last_batch_head: u16,
    /// The state written to the entries, by head.
    heads: Vec<Head>,
}

/// This process's own state of a head.
#[derive(Debug, Clone, Copy, Default)]
struct Head {
    in_flight: bool,
    attempts: u8,
}

impl Region {
    /// The region of a queue with `size` descriptors and the used index `used_idx`, with the
    /// requests that an earlier generation had in flight, oldest first. After a `crash`, each of
    /// those that it had begun to parse counts one crash more.
    ///
    /// The process may die at any step of this; the next generation starts it again.
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

    /// Initialises a zeroed region as if it had seen everything up to `used_idx`: on a queue that
    /// is not new, a used index of 0 would look like a lost batch.
    fn format(&self, used_idx: u16) {
        self.header(header::DESC_NUM)
            .store(self.size.to_le(), Relaxed);
        self.header(header::USED_IDX)
            .store(used_idx.to_le(), Relaxed);
        then();
        failpoint::step();
        self.header(header::VERSION).store(VERSION.to_le(), Relaxed);
    }

    /// Completes the batch that an earlier generation published and did not record.
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

    /// The requests still in flight, oldest first.
    fn collect(&mut self, crash: bool) -> Result<Vec<Replay>, InflightError> {
        let mut found = Vec::new();
        for head in 0..self.size {
            match self.inflight(head).load(Relaxed) {
                0 => continue,
                1 => {}
                _ => return Err(InflightError::Entry),
            }
            let counter = u64::from_le(self.counter(head).load(Relaxed));
            // Keep the highest bit free, so that the counter can never overflow.
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

    /// Whether a head is in flight: taken, and not yet published as used. Writes of the vmm to the
    /// region do not change the answer.
    pub fn is_in_flight(&self, head: u16) -> bool {
        self.heads[usize::from(head)].in_flight
    }

    /// Records a head taken from the available ring.
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

    /// Records that a head is about to be parsed: if the process dies now, this request may be the
    /// cause.
    pub fn try_out(&mut self, head: u16) {
        let attempts = self.heads[usize::from(head)].attempts | 1;
        self.heads[usize::from(head)].attempts = attempts;
        self.attempts(head).store(attempts, Relaxed);
        failpoint::step();
    }

    /// Records that no request in flight is the cause if the process dies now.
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

    /// Adds a head in the used ring to the batch list: if the process dies right after publishing
    /// the batch, the list tells what was in it.
    pub fn link(&mut self, head: u16) {
        let last = std::mem::replace(&mut self.last_batch_head, head);
        self.next(head).store(last.to_le(), Relaxed);
        then();
        failpoint::step();
        self.header(header::LAST_BATCH_HEAD)
            .store(head.to_le(), Relaxed);
    }

    /// Records that the batch of `heads` was published; the used index is now `used_idx`.
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

    /// The offset of a head's entry; `head` is below `size`, so it is inside the window.
    fn entry(&self, head: u16) -> usize {
        debug_assert!(head < self.size);
        ENTRY_BYTES + ENTRY_BYTES * usize::from(head)
    }
}

/// Keeps the order of the stores on either side. A killed process has done all stores before the
/// kill and none after it, on any processor; only the compiler could reorder them.
fn then() {
    compiler_fence(SeqCst);
}

#[cfg(test)]
mod tests;
