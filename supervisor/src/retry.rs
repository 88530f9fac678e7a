// SPDX-License-Identifier: Apache-2.0
//! When to try again to start the next vmm of a guest that reboots, if the host could not start it:
//! for as long as the VM lives. Pure.

const MS_NS: u64 = 1_000_000;
/// The pauses before the second, third, … attempt; the last one repeats.
const PAUSES_NS: [u64; 3] = [10 * MS_NS, 100 * MS_NS, 1000 * MS_NS];

/// The failed attempts.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    /// When the next attempt may be made; `None` if it may be now.
    until_ns: Option<u64>,
    failures: usize,
    why: String,
}

impl Retry {
    /// When the supervisor has to look again at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.until_ns
    }

    /// Whether a vmm may be started now.
    pub(crate) fn is_due(&mut self, now_ns: u64) -> bool {
        self.until_ns.take_if(|until_ns| *until_ns <= now_ns);
        self.until_ns.is_none()
    }

    /// Counts a failed attempt; returns whether the reason has changed.
    pub(crate) fn failed(&mut self, why: &str, now_ns: u64) -> bool {
        let pause_ns = PAUSES_NS[self.failures.min(PAUSES_NS.len() - 1)];
        self.failures = self.failures.saturating_add(1);
        self.until_ns = Some(now_ns + pause_ns);
        std::mem::replace(&mut self.why, why.to_owned()) != why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vmm_that_cannot_be_started_is_tried_later_and_later_for_ever_and_told_of_once() {
        let mut retry = Retry::default();
        assert!(retry.is_due(0));
        let mut now_ns = 0;
        for attempt in 0..100 {
            let is_news = retry.failed("no memory", now_ns);
            assert_eq!(is_news, attempt == 0);
            let next_ns = now_ns + PAUSES_NS[attempt.min(2)];
            assert_eq!(retry.deadline_ns(), Some(next_ns));
            assert!(!retry.is_due(next_ns - 1) && retry.is_due(next_ns));
            now_ns = next_ns;
        }
        assert!(retry.failed("no processes", now_ns));
    }
}
