// SPDX-License-Identifier: Apache-2.0
//! Limits how much of the jailer's time a supervisor can take: a token bucket for its messages. The
//! jailer does not refuse messages beyond it, but reads them later. Pure.

/// How many messages may come at once: the questions of all devices of the largest VM, several
/// times.
const BURST: u32 = 256;
/// How long it takes until one more may come.
const REFILL_NS: u64 = 10_000_000;

/// The token bucket of one supervisor.
#[derive(Debug)]
pub(super) struct RateLimit {
    tokens: u32,
    /// Up to when time has been turned into tokens.
    filled_ns: u64,
}

impl RateLimit {
    /// A full bucket.
    pub(super) fn full(now_ns: u64) -> Self {
        Self {
            tokens: BURST,
            filled_ns: now_ns,
        }
    }

    /// Takes a token: the jailer has looked for a message.
    pub(super) fn take(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }

    /// In how many nanoseconds the next message may be read; `None` if it may be at once.
    pub(super) fn wait_ns(&mut self, now_ns: u64) -> Option<u64> {
        self.fill(now_ns);
        let next_ns = self.filled_ns + REFILL_NS;
        (self.tokens == 0).then(|| next_ns.saturating_sub(now_ns))
    }

    fn fill(&mut self, now_ns: u64) {
        let fresh = now_ns.saturating_sub(self.filled_ns) / REFILL_NS;
        self.filled_ns += fresh * REFILL_NS;
        let fresh = u32::try_from(fresh).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(fresh).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    impl RateLimit {
        /// Reads a message if that may be.
        fn reads(&mut self, now_ns: u64) -> bool {
            let may = self.wait_ns(now_ns).is_none();
            self.take();
            may
        }
    }

    #[test]
    fn messages_without_end_are_read_at_a_steady_rate_after_the_first() {
        let mut rate_limit = RateLimit::full(5);
        let mut read_within = |from_ns: u64| {
            let at = (0..10_000).map(|n| from_ns + n * SECOND_NS / 10_000);
            at.filter(|now_ns| rate_limit.reads(*now_ns)).count()
        };
        let per_second = SECOND_NS / REFILL_NS;
        let first = read_within(5) as u64;
        assert!(
            first.abs_diff(u64::from(BURST) + per_second) <= 1,
            "{first}"
        );
        for second in 1..10 {
            let later = read_within(5 + second * SECOND_NS) as u64;
            assert!(later.abs_diff(per_second) <= 1, "{later}");
        }
    }

    #[test]
    fn message_may_be_read_when_it_is_said_and_not_before() {
        let mut rate_limit = RateLimit::full(0);
        assert_eq!(rate_limit.wait_ns(0), None);
        assert!((0..BURST).all(|_| rate_limit.reads(0)));
        let wait_ns = rate_limit.wait_ns(3).unwrap();
        assert!(!rate_limit.reads(3 + wait_ns - 1));
        assert_eq!(rate_limit.wait_ns(3 + wait_ns), None);
        assert!(rate_limit.reads(3 + wait_ns));
    }

    #[test]
    fn supervisor_that_was_silent_for_long_has_no_more_than_a_burst() {
        let mut rate_limit = RateLimit::full(0);
        let now_ns = 1_000_000 * SECOND_NS;
        let read = (0..2 * BURST).filter(|_| rate_limit.reads(now_ns)).count();
        assert_eq!(read, BURST as usize);
    }
}
