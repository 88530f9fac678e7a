// SPDX-License-Identifier: Apache-2.0
//! How many presses the driver was told of, in memory that outlives the process, so that the next
//! process goes on there. All zeroes means that it was told of none.
//!
//! A process can die between publishing a press to the driver and counting it. So it first notes the
//! press, and the used index that publishing it will set: the next process sees by the index that it
//! finds whether the driver has the press. Only a driver that resets its device at that moment hides
//! this: it may be told of the press twice, never not at all.
//!
//! A compromised process may have written the memory: it can make the next one tell the driver of
//! presses again, but of no more than there were.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release};

use device_backend::shared_mem::SharedMem;

/// Where the number of presses is that were delivered.
const DELIVERED: usize = 0;
/// Where the press is noted that is being delivered: [`NOTED`], its number, and the used index.
const CURRENT: usize = 8;

/// Set if a press is noted.
const NOTED: u64 = 1 << 63;

/// How many presses the driver was told of.
#[derive(Debug)]
pub struct Deliveries(SharedMem);

impl Deliveries {
    /// What the memory says, of at least 16 bytes.
    pub fn new(memory: SharedMem) -> Self {
        Self(memory)
    }

    /// How many of `pressed` presses are still to be delivered.
    pub fn pending(&self, pressed: u32) -> u32 {
        pressed.saturating_sub(self.delivered())
    }

    /// The next press is about to be published, which sets the used index to `used`.
    pub fn begin(&self, used: u16) {
        let number = self.delivered().wrapping_add(1);
        let note = NOTED | u64::from(number) << 16 | u64::from(used);
        self.word(CURRENT).store(note, Release);
    }

    /// The press is published.
    pub fn finish(&self) {
        let number = self.delivered().wrapping_add(1);
        self.word(DELIVERED).store(u64::from(number), Release);
    }

    /// The press will not be published: its queue is broken.
    pub fn cancel(&self) {
        self.word(CURRENT).store(0, Release);
    }

    /// Counts the press that an earlier process has noted, if the used index says that it was
    /// published.
    pub fn recover(&self, used: u16) {
        let number = self.delivered().wrapping_add(1);
        if self.word(CURRENT).load(Acquire) == NOTED | u64::from(number) << 16 | u64::from(used) {
            self.finish();
        }
        self.cancel();
    }

    fn delivered(&self) -> u32 {
        u32::try_from(self.word(DELIVERED).load(Acquire)).unwrap_or(u32::MAX)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.0.at(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Deliveries {
        Deliveries::new(SharedMem::private(16))
    }

    #[test]
    fn press_is_pending_until_it_was_published() {
        let deliveries = none();
        assert_eq!(deliveries.pending(2), 2);
        deliveries.begin(4);
        assert_eq!(deliveries.pending(2), 2);
        deliveries.finish();
        assert_eq!((deliveries.pending(2), deliveries.pending(1)), (1, 0));
    }

    #[test]
    fn press_of_a_process_that_died_counts_if_the_used_index_has_moved() {
        for (used, left) in [(0, 1), (4, 0), (8, 1)] {
            let deliveries = none();
            deliveries.begin(4);
            deliveries.recover(used);
            assert_eq!(deliveries.pending(1), left, "{used}");
        }
    }

    #[test]
    fn press_that_was_counted_is_not_counted_again() {
        let deliveries = none();
        deliveries.begin(4);
        deliveries.finish();
        deliveries.recover(4);
        assert_eq!(deliveries.pending(2), 1);
        // Nor when another is pressed, and a third process finds the same index.
        deliveries.recover(4);
        assert_eq!(deliveries.pending(2), 1);
    }

    #[test]
    fn press_that_was_cancelled_is_pending_whatever_the_next_queues_index_is() {
        let deliveries = none();
        deliveries.begin(0);
        deliveries.cancel();
        deliveries.recover(0);
        assert_eq!(deliveries.pending(1), 1);
    }

    #[test]
    fn memory_that_lies_makes_no_presses() {
        let deliveries = none();
        deliveries.word(DELIVERED).store(u64::MAX, Release);
        deliveries.word(CURRENT).store(u64::MAX, Release);
        deliveries.recover(u16::MAX);
        assert!(deliveries.pending(3) <= 3);
    }
}
