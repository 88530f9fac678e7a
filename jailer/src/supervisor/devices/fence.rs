// SPDX-License-Identifier: Apache-2.0
//! When the I/O of a dead backend has ended: killing it does not end what the kernel does for it.
//!
//! Of a backend with rings, the rings tell; they outlive it. Of one with threads, or with rings
//! whose counters make no sense, its opening of the image tells: it carries a mark that goes with
//! its last user, in the kernel or outside. Nothing here waits.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, Ordering};

use launch::disk;
use launch::ring::RingWatch;

const MS_NS: u64 = 1_000_000;
/// From here on an image's bytes are marked by our generations, each its own; no image is so large.
const MARKS: i64 = 1 << 62;
/// After this time it is said that somebody waits for the storage.
const PATIENCE_NS: u64 = 5_000 * MS_NS;

/// A byte that no other generation of any VM on this host marks while it lives.
pub(crate) fn fresh_mark() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let generation = NEXT.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff;
    // Process ids have at most 22 bits.
    MARKS + (i64::from(std::process::id() & 0x3f_ffff) << 32) + generation
}

/// A ring that a backend had.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) watch: RingWatch,
    /// Keeps it open after the backend's death.
    pub(crate) fd: OwnedFd,
}

/// What tells of one generation's I/O.
#[derive(Debug)]
pub(crate) struct Fence {
    rings: Vec<Ring>,
    /// How many requests a ring can have.
    ring_max: u32,
    mark: i64,
    since_ns: u64,
    next_ns: u64,
    told: bool,
}

impl Fence {
    /// For a backend with these rings, none if it has threads, whose opening of the image has
    /// marked this byte.
    pub(crate) fn new(rings: Vec<Ring>, queue_size: u16, mark: i64) -> Self {
        Self {
            rings,
            // The completion queue is twice as long as the submission queue.
            ring_max: 2 * u32::from(queue_size),
            mark,
            since_ns: 0,
            next_ns: 0,
            told: false,
        }
    }

    /// The backend is dead and reaped.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.since_ns = now_ns;
        self.next_ns = now_ns;
    }

    /// When to look again.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.next_ns
    }

    /// Looks whether all of its I/O has ended; `image` is another opening of it.
    pub(crate) fn has_ended(&mut self, image: &File, id: &str, now_ns: u64) -> bool {
        if now_ns < self.next_ns {
            return false;
        }
        if self.look(image, id) {
            let took_us = now_ns.saturating_sub(self.since_ns) / 1000;
            log::info!(device_id = id; "its I/O has ended, {took_us} us after its backend");
            return true;
        }
        let waited_ns = now_ns.saturating_sub(self.since_ns);
        if waited_ns >= PATIENCE_NS && !self.told {
            self.told = true;
            log::error!(device_id = id; "stalled: the storage does not finish a dead backend's I/O");
        }
        // Often at first, when it is about to happen, and never so often that it costs anything.
        self.next_ns = now_ns + (waited_ns / 8).clamp(MS_NS, 500 * MS_NS);
        false
    }

    fn look(&mut self, image: &File, id: &str) -> bool {
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
        match disk::is_marked(image, self.mark) {
            Ok(marked) => !marked,
            Err(error) => {
                log::error!(device_id = id; "{}", launch::log::chain(&error));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn image() -> (tempfile::NamedTempFile, File) {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(4096).unwrap();
        let other = image.reopen().unwrap();
        (image, other)
    }

    #[test]
    fn fence_of_threads_stands_as_long_as_anyone_has_their_opening() {
        let (image, opening) = image();
        let mark = fresh_mark();
        disk::mark_byte(&opening, mark).unwrap();
        let mut fence = Fence::new(Vec::new(), 16, mark);
        fence.begin(0);
        assert!(!fence.has_ended(image.as_file(), "d", 0));
        drop(opening);
        assert!(!fence.has_ended(image.as_file(), "d", 1), "not looked yet");
        assert!(fence.has_ended(image.as_file(), "d", fence.deadline_ns()));
    }

    #[test]
    fn fence_of_idle_rings_falls_at_once() {
        let (image, opening) = image();
        let (fd, params) = launch::ring::create(16, opening.as_fd()).unwrap();
        let watch = RingWatch::new(&fd, &params).unwrap();
        let mut fence = Fence::new(vec![Ring { watch, fd }], 16, fresh_mark());
        fence.begin(7);
        assert!(fence.has_ended(image.as_file(), "d", 7));
    }

    #[test]
    fn mark_is_never_the_same_and_never_negative() {
        let (a, b) = (fresh_mark(), fresh_mark());
        assert!(a != b && a >= MARKS && b >= MARKS);
    }
}
