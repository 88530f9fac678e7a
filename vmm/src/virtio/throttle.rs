// SPDX-License-Identifier: Apache-2.0
//! How often something may happen that a guest can bring about: once a second. The first time it is
//! not held back.
//!
//! Used on a device's thread.

use std::sync::atomic::{AtomicU64, Ordering};

const INTERVAL_NS: u64 = 1_000_000_000;

/// When it happened last; 0 if it never did.
#[derive(Debug, Default)]
pub(super) struct Throttle(AtomicU64);

impl Throttle {
    /// Whether it may happen now; then it counts as having happened.
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
