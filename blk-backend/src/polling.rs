// SPDX-License-Identifier: Apache-2.0
//! When a worker that has nothing to do looks for work before it sleeps, and for how long.
//!
//! Waking a sleeping thread costs more than many a disk request. So a worker whose pauses have been
//! short stays awake for the next one, at most `poll-us`; one whose pauses are long sleeps at once.
//! What it spends on looks that find nothing is limited to [`WASTE_PERCENT`] of one processor.

/// The share of one processor that looks without a find may take, in the long run.
pub const WASTE_PERCENT: u64 = 10;
/// What may be spent beyond that in one go.
const CREDIT_MAX_NS: u64 = 5_000_000;

/// The polling of one worker.
#[derive(Debug)]
pub struct Polling {
    limit_ns: u64,
    /// How long pauses have been of late, roughly.
    pause_ns: u64,
    credit_ns: u64,
    credited_at_ns: u64,
    idle_since_ns: Option<u64>,
}

impl Polling {
    /// Polling for at most `limit_us` at a time; never, if that is 0.
    pub fn new(limit_us: u32) -> Self {
        Self {
            limit_ns: u64::from(limit_us) * 1000,
            pause_ns: 0,
            credit_ns: CREDIT_MAX_NS,
            credited_at_ns: 0,
            idle_since_ns: None,
        }
    }

    /// Whether there is any polling at all.
    pub fn is_off(&self) -> bool {
        self.limit_ns == 0
    }

    /// The work has run out; until when to look for more.
    pub fn idle(&mut self, now_ns: u64) -> u64 {
        self.idle_since_ns.get_or_insert(now_ns);
        let earned = now_ns.saturating_sub(self.credited_at_ns) / 100 * WASTE_PERCENT;
        self.credit_ns = (self.credit_ns + earned).min(CREDIT_MAX_NS);
        self.credited_at_ns = now_ns;
        if self.pause_ns > self.limit_ns || self.credit_ns < self.limit_ns {
            return now_ns;
        }
        now_ns + self.limit_ns
    }

    /// A look that began at `since_ns` found nothing until now.
    pub fn missed(&mut self, since_ns: u64, now_ns: u64) {
        let spent = now_ns.saturating_sub(since_ns);
        self.credit_ns = self.credit_ns.saturating_sub(spent);
    }

    /// There is work, perhaps after a pause.
    pub fn busy_again(&mut self) {
        if self.idle_since_ns.is_some() {
            self.busy(launch::clock::monotonic_ns());
        }
    }

    fn busy(&mut self, now_ns: u64) {
        let Some(since) = self.idle_since_ns.take() else {
            return;
        };
        // One long pause is soon forgotten, since it counts as a few times the limit at most.
        let pause = now_ns.saturating_sub(since).min(4 * self.limit_ns);
        self.pause_ns = (self.pause_ns * 7 + pause) / 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_with_short_pauses_looks_and_with_long_ones_sleeps() {
        let mut polling = Polling::new(50);
        let mut now = 1_000_000_000;
        for _ in 0..20 {
            assert!(polling.idle(now) > now);
            now += 10_000;
            polling.busy(now);
        }
        for _ in 0..20 {
            polling.idle(now);
            now += 10_000_000;
            polling.busy(now);
        }
        assert_eq!(polling.idle(now), now);
    }

    #[test]
    fn worker_comes_back_to_looking_when_pauses_are_short_again() {
        let mut polling = Polling::new(50);
        let mut now = 1_000_000_000;
        polling.idle(now);
        now += 10_000_000_000;
        polling.busy(now);
        for _ in 0..20 {
            polling.idle(now);
            now += 10_000;
            polling.busy(now);
        }
        assert!(polling.idle(now) > now);
    }

    #[test]
    fn looks_that_find_nothing_are_limited_to_their_share() {
        let mut polling = Polling::new(50);
        let (start, mut now, mut wasted) = (1_000_000_000, 1_000_000_000, 0);
        while now < start + 10_000_000_000 {
            let until = polling.idle(now);
            wasted += until - now;
            polling.missed(now, until);
            now = until + 1_000;
            polling.pause_ns = 0;
            polling.idle_since_ns = None;
        }
        assert!(wasted <= 10_000_000_000 / 100 * WASTE_PERCENT + 2 * CREDIT_MAX_NS);
    }

    #[test]
    fn polling_off_never_looks() {
        let mut polling = Polling::new(0);
        assert!(polling.is_off());
        assert_eq!(polling.idle(7), 7);
    }
}
