// SPDX-License-Identifier: Apache-2.0
//! When nothing completed on any queue for longer than usual: from when to when.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use host::clock::monotonic_ns;

/// What is shorter is not kept.
const GAP_NS: u64 = 500_000;

/// Gaps between completions, as all queues together see them.
#[derive(Debug, Default)]
pub struct Gaps {
    last_ns: AtomicU64,
    found: Mutex<Vec<(u64, u64)>>,
}

impl Gaps {
    /// Something completed.
    pub fn event(&self) {
        let now_ns = monotonic_ns();
        let last_ns = self.last_ns.swap(now_ns, Ordering::Relaxed);
        if last_ns != 0 && now_ns.saturating_sub(last_ns) >= GAP_NS {
            self.lock().push((last_ns, now_ns));
        }
    }

    /// What was found since this was last asked, each from and to in CLOCK_MONOTONIC's ns.
    pub fn take(&self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, u64)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gap_long_is_kept_and_others_are_not() {
        let gaps = Gaps::default();
        gaps.event();
        gaps.event();
        std::thread::sleep(std::time::Duration::from_millis(2));
        gaps.event();
        let found = gaps.take();
        assert_eq!(found.len(), 1);
        assert!(found[0].1 - found[0].0 >= GAP_NS);
        assert_eq!(gaps.take(), []);
    }
}
