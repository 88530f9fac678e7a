// SPDX-License-Identifier: Apache-2.0
//! Which blocks of the image are being changed, if the storage has larger blocks than the guest.
//!
//! A write to a part of a block reads the block, changes it and writes it whole. Two such writes at
//! a time, on any queues, would undo each other, and one next to a discard would bring back the
//! discarded data. So every request that changes blocks has exclusive access to those it touches,
//! from its first step to its last; requests that share a block run in the order of arrival.
//! Without partial blocks there is no such table.
//!
//! Shared by the workers of a device. They hold the lock to read or change the table, never during
//! I/O.

use std::ops::Range;
use std::sync::Mutex;

use device_backend::lock;

/// The requests that change blocks, in the order of arrival.
#[derive(Debug, Default)]
pub struct Blocks(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    queue: u16,
    head: u16,
    /// The range it touches, in bytes of the image.
    range: Range<u64>,
    /// How many earlier requests that share a block with it are not complete.
    earlier: usize,
    started: bool,
}

impl Entry {
    fn overlaps(&self, other: &Range<u64>) -> bool {
        self.range.start < other.end && other.start < self.range.end
    }
}

impl Blocks {
    /// Adds a request that changes a range. Returns whether it may start now; if not,
    /// [`Blocks::ready`] returns it later.
    pub fn enter(&self, queue: u16, head: u16, range: Range<u64>) -> bool {
        let mut entries = lock(&self.0);
        let earlier = entries.iter().filter(|it| it.overlaps(&range)).count();
        let started = earlier == 0;
        entries.push(Entry {
            queue,
            head,
            range,
            earlier,
            started,
        });
        started
    }

    /// Removes a completed request. Adds the queues that have a request which may start now to
    /// `wake`.
    pub fn leave(&self, queue: u16, head: u16, wake: &mut Vec<u16>) {
        let mut entries = lock(&self.0);
        let is_it = |it: &Entry| it.queue == queue && it.head == head;
        let Some(place) = entries.iter().position(is_it) else {
            debug_assert!(false, "head {head} leaves and has not come");
            return;
        };
        let over = entries.remove(place);
        let later = entries.iter_mut().skip(place);
        for entry in later.filter(|it| it.overlaps(&over.range)) {
            entry.earlier -= 1;
            if entry.earlier == 0 && !wake.contains(&entry.queue) {
                wake.push(entry.queue);
            }
        }
    }

    /// Adds the heads of a queue that had to wait and may start now to `heads`.
    pub fn ready(&self, queue: u16, heads: &mut Vec<u16>) {
        let mut entries = lock(&self.0);
        let waiting = |it: &&mut Entry| it.queue == queue && !it.started && it.earlier == 0;
        for entry in entries.iter_mut().filter(waiting) {
            entry.started = true;
            heads.push(entry.head);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(blocks: &Blocks, queue: u16) -> Vec<u16> {
        let mut heads = Vec::new();
        blocks.ready(queue, &mut heads);
        heads
    }

    fn leave(blocks: &Blocks, queue: u16, head: u16) -> Vec<u16> {
        let mut wake = Vec::new();
        blocks.leave(queue, head, &mut wake);
        wake
    }

    #[test]
    fn requests_on_different_blocks_do_not_wait() {
        let blocks = Blocks::default();
        assert!(blocks.enter(0, 1, 0..4096));
        assert!(blocks.enter(1, 1, 4096..8192));
        assert!(leave(&blocks, 0, 1).is_empty());
        assert!(leave(&blocks, 1, 1).is_empty());
    }

    #[test]
    fn requests_that_share_a_block_are_done_in_the_order_in_which_they_came() {
        let blocks = Blocks::default();
        assert!(blocks.enter(0, 1, 0..8192));
        assert!(!blocks.enter(1, 1, 4096..12288));
        assert!(!blocks.enter(2, 7, 8192..16384));
        assert!(blocks.enter(0, 2, 16384..20480));
        assert!(ready(&blocks, 1).is_empty());
        assert_eq!(leave(&blocks, 0, 1), [1]);
        assert_eq!((ready(&blocks, 1), ready(&blocks, 2)), (vec![1], vec![]));
        assert!(ready(&blocks, 1).is_empty(), "it begins once");
        assert_eq!(leave(&blocks, 1, 1), [2]);
        assert_eq!(ready(&blocks, 2), [7]);
    }

    #[test]
    fn request_that_waits_is_not_overtaken_by_later_ones() {
        let blocks = Blocks::default();
        assert!(blocks.enter(0, 1, 0..4096));
        assert!(!blocks.enter(0, 2, 0..8192));
        assert!(!blocks.enter(1, 3, 4096..8192));
        assert_eq!(leave(&blocks, 0, 1), [0]);
        assert_eq!((ready(&blocks, 1), ready(&blocks, 0)), (vec![], vec![2]));
        assert_eq!(leave(&blocks, 0, 2), [1]);
    }
}
