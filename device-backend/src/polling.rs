// SPDX-License-Identifier: Apache-2.0
//! Whether and how long an idle worker polls for work before it sleeps.
//!
//! Waking a sleeping thread costs more than many a disk request. So a worker polls for a moment, at
//! most `poll-us`, as long as that pays: each poll that finds nothing makes it sleep through a
//! growing number of idle periods without polling. That happens when idle periods are long, and
//! when the driver or kernel thread that makes the work needs the processor that polling takes. In
//! the long run, polls that find nothing take no more than [`WASTE_PERCENT`] of one processor.

use host::clock::monotonic_ns;

/// The share of one processor that polls without result may take in the long run.
pub const WASTE_PERCENT: u64 = 10;
/// The most credit that accumulates for polls without result.
const CREDIT_MAX_NS: u64 = 5_000_000;
/// The most idle periods slept through after a poll without result.
const SKIP_MAX: u32 = 255;

/// If yielding the processor takes this long, a busy thread had it.
const TAKEN_NS: u64 = 200_000;
/// How many checks to make before yielding the processor.
const GLANCES: u32 = 16;

/// The polling of one worker.
#[derive(Debug)]
pub struct Polling {
    limit_ns: u64,
    credit_ns: u64,
    credited_at_ns: u64,
    /// How many idle periods to sleep through after the next poll without result.
    penalty: u32,
    skip: u32,
}

impl Polling {
    /// Polls for at most `limit_us` at a time; 0 never polls.
    pub fn new(limit_us: u32) -> Self {
        Self {
            limit_ns: u64::from(limit_us) * 1000,
            credit_ns: CREDIT_MAX_NS,
            credited_at_ns: 0,
            penalty: 0,
            skip: 0,
        }
    }

    /// Called when the work has run out: polls for more if that pays. Returns whether there is any.
    pub fn look(&mut self, mut has_work: impl FnMut() -> bool) -> bool {
        if self.limit_ns == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let began_ns = monotonic_ns();
        if !self.afford(began_ns) {
            return false;
        }
        let mut now_ns = began_ns;
        while now_ns < began_ns + self.limit_ns {
            for _ in 0..GLANCES {
                if has_work() {
                    self.found();
                    return true;
                }
                std::hint::spin_loop();
            }
            // The driver or kernel thread that makes the work may need this processor.
            let before_ns = now_ns;
            std::thread::yield_now();
            now_ns = monotonic_ns();
            if now_ns - before_ns > TAKEN_NS {
                // A thread that has nothing to do with it may have it instead. A sleeper would have
                // been woken.
                self.penalty = SKIP_MAX;
                break;
            }
        }
        self.missed(now_ns - began_ns);
        has_work()
    }

    /// Whether there is credit for a poll without result.
    fn afford(&mut self, now_ns: u64) -> bool {
        let earned = now_ns.saturating_sub(self.credited_at_ns) / 100 * WASTE_PERCENT;
        self.credit_ns = self.credit_ns.saturating_add(earned).min(CREDIT_MAX_NS);
        self.credited_at_ns = now_ns;
        self.credit_ns >= self.limit_ns
    }

    fn found(&mut self) {
        self.penalty /= 2;
    }

    fn missed(&mut self, spent_ns: u64) {
        self.credit_ns = self.credit_ns.saturating_sub(spent_ns);
        self.penalty = (2 * self.penalty + 1).min(SKIP_MAX);
        self.skip = self.penalty;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_that_finds_work_keeps_looking() {
        let mut polling = Polling::new(50);
        assert!((0..1000).all(|_| polling.look(|| true)));
    }

    #[test]
    fn worker_that_finds_nothing_rarely_looks() {
        let mut polling = Polling::new(1);
        let mut looks = 0;
        for _ in 0..10_000 {
            let mut looked = false;
            polling.look(|| {
                looked = true;
                false
            });
            looks += u32::from(looked);
        }
        assert!((8..60).contains(&looks), "{looks}");
    }

    #[test]
    fn worker_comes_back_to_looking_when_it_pays_again() {
        let mut polling = Polling::new(1);
        assert!((0..10_000).all(|_| !polling.look(|| false)));
        assert!((0..4 * SKIP_MAX).any(|_| polling.look(|| true)));
        (0..8).for_each(|_| assert!(polling.look(|| true)));
        assert!((0..100).all(|_| polling.look(|| true)));
    }

    #[test]
    fn looks_that_find_nothing_are_limited_to_their_share() {
        let mut polling = Polling::new(50);
        let (mut now_ns, mut wasted_ns) = (1_000_000_000, 0);
        while now_ns < 11_000_000_000 {
            if polling.afford(now_ns) {
                polling.missed(50_000);
                wasted_ns += 50_000;
                now_ns += 50_000;
            }
            now_ns += 1_000;
        }
        assert!(wasted_ns <= 10_000_000_000 / 100 * WASTE_PERCENT + 2 * CREDIT_MAX_NS);
    }

    #[test]
    fn polling_off_never_looks() {
        assert!(!Polling::new(0).look(|| true));
    }
}
