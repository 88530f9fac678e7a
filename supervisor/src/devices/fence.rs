// SPDX-License-Identifier: Apache-2.0
//! The I/O fence: the time between the death of a backend and the end of the I/O that the kernel
//! still does for it. It never waits: the supervisor's loop looks again and again.
//!
//! For a disk's backend with rings the rings tell: they outlive it. For one with threads, or with
//! rings whose counters are impossible or have not moved for long, its opening of the image tells:
//! the opening holds a lock, its mark, which the kernel drops with the last user of the opening, in
//! the kernel or in a process.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use host::ring::RingWatch;
use ipc::broker::Question;

use crate::jailer_link::{Asked, JailerLink};

const MS_NS: u64 = 1_000_000;
/// After this time the supervisor logs that it waits for the storage, and trusts only the kernel.
const PATIENCE_NS: u64 = 5_000 * MS_NS;

/// The I/O fence of a dead and reaped backend.
#[derive(Debug)]
pub(crate) struct Fence {
    pending_io: Box<dyn PendingIo>,
    since_ns: u64,
    next_ns: u64,
    told: bool,
}

impl Fence {
    /// For a backend that is dead and reaped.
    pub(crate) fn new(pending_io: Box<dyn PendingIo>, now_ns: u64) -> Self {
        Self {
            pending_io,
            since_ns: now_ns,
            next_ns: now_ns,
            told: false,
        }
    }

    /// When to look again.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.next_ns
    }

    /// Whether all of its I/O has ended; returns how many microseconds after the process.
    pub(crate) fn ended(&mut self, id: &str, jailer: &JailerLink, now_ns: u64) -> Option<u64> {
        if self.pending_io.is_quiesced(id, jailer) {
            return Some(now_ns.saturating_sub(self.since_ns) / 1000);
        }
        if now_ns < self.next_ns {
            return None;
        }
        let waited_ns = now_ns.saturating_sub(self.since_ns);
        if waited_ns >= PATIENCE_NS && !self.told {
            self.told = true;
            log::error!(device_id = id; "stalled: the storage does not finish a dead backend's I/O");
            self.pending_io.distrust();
        }
        // Often at first, when the end is near, and later rarely enough to cost nothing.
        self.next_ns = now_ns + (waited_ns / 8).clamp(MS_NS, 500 * MS_NS);
        None
    }
}

/// The I/O of a dead backend. Killing a process does not end what the kernel does for it.
pub(crate) trait PendingIo: Debug {
    /// Whether nothing that the backend began can still happen; does not wait. `id` is the device's
    /// name, for the log. Asks the jailer what may block.
    fn is_quiesced(&mut self, id: &str, jailer: &JailerLink) -> bool;

    /// The end takes long: do not believe any more what the backend could have written to seem
    /// alive for ever. What remains may answer later.
    fn distrust(&mut self) {}

    /// Whether the kernel has work to do for this queue of a living backend, if that can be seen.
    fn is_busy(&self, _queue: u16) -> Option<bool> {
        None
    }
}

/// For a backend that begins nothing that outlives it.
impl PendingIo for () {
    fn is_quiesced(&mut self, _id: &str, _jailer: &JailerLink) -> bool {
        true
    }
}

/// A ring of a backend.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) watch: RingWatch,
    /// Keeps the ring open after the backend's death.
    pub(crate) fd: OwnedFd,
}

/// What tells whether one backend's I/O has ended.
#[derive(Debug)]
pub(crate) struct DiskRemains {
    /// The disk's place in the spec.
    index: u8,
    rings: Vec<Ring>,
    /// The most requests that a ring can have.
    ring_max: u32,
    mark: i64,
    /// The question to the jailer whether the opening was released: asking for locks may block on
    /// storage.
    asked: Option<Asked>,
}

impl DiskRemains {
    /// For a backend with these rings (none if it has threads), whose opening of the image has this
    /// mark.
    pub(crate) fn new(index: u8, rings: Vec<Ring>, queue_size: u16, mark: i64) -> Self {
        Self {
            index,
            rings,
            // The completion queue is twice as long as the submission queue.
            ring_max: 2 * u32::from(queue_size),
            mark,
            asked: None,
        }
    }

    fn is_released(&mut self, id: &str, jailer: &JailerLink) -> bool {
        let error = match &self.asked {
            Some(asked) => match asked.released() {
                None => return false,
                Some(Ok(())) => return true,
                Some(Err(error)) => {
                    self.asked = None;
                    error
                }
            },
            None => {
                let question = Question::DiskReleased(self.index, self.mark);
                match jailer.ask(question) {
                    Ok(asked) => {
                        self.asked = Some(asked);
                        return false;
                    }
                    Err(error) => error,
                }
            }
        };
        log::error!(device_id = id; "cannot tell whether its I/O has ended: {}", host::log::chain(&error));
        false
    }
}

impl PendingIo for DiskRemains {
    fn is_busy(&self, queue: u16) -> Option<bool> {
        let ring = self.rings.get(usize::from(queue))?;
        Some(ring.watch.unfinished() != 0)
    }

    fn distrust(&mut self) {
        // Without our descriptors the kernel frees the rings that have nothing to do.
        self.rings.clear();
    }

    fn is_quiesced(&mut self, id: &str, jailer: &JailerLink) -> bool {
        let unfinished = self.rings.iter().map(|ring| ring.watch.unfinished());
        match unfinished.max() {
            Some(0) => return true,
            Some(n) if n <= self.ring_max => return false,
            Some(_) => {
                log::error!(device_id = id; "its backend has damaged the counters of its rings");
                self.rings.clear();
            }
            None => {}
        }
        self.is_released(id, jailer)
    }
}

#[cfg(test)]
mod orders;
#[cfg(test)]
mod tests;
