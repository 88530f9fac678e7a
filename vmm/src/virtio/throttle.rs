// SPDX-License-Identifier: Apache-2.0
//! Rate limit for events that a guest can cause: one per second. The first is never held back.
//!
//! Used on a device's thread.

use std::sync::atomic::{AtomicU64, Ordering};

const INTERVAL_NS: u64 = 1_000_000_000;

/// When the last event passed, in ns; 0 if none has.
#[derive(Debug, Default)]
pub(super) struct Throttle(AtomicU64);

impl Throttle {
    /// Whether an event may pass now; if so, counts it.
    pub(super) fn take(&self, now_ns: u64) -> bool {
        let last_ns = self.0.load(Ordering::Relaxed);
        let due = last_ns == 0 || now_ns.saturating_sub(last_ns) >= INTERVAL_NS;
        if due {
            self.0.store(now_ns.max(1), Ordering::Relaxed);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_lets_the_first_pass_and_one_each_second_after_it() {
        let throttle = Throttle::default();

        assert!(throttle.take(5));
        assert!(!throttle.take(6));
        assert!(!throttle.take(INTERVAL_NS + 4));
        assert!(throttle.take(INTERVAL_NS + 5));
        assert!(!throttle.take(INTERVAL_NS + 6));
    }
}
