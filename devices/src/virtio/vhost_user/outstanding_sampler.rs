// SPDX-License-Identifier: Apache-2.0
//! When to count a device's outstanding requests: once a second while its queues run, so that the
//! supervisor can tell a hung backend from an idle one.

use std::time::{Duration, Instant};

use nix::poll::PollTimeout;

/// The sampling period.
const PERIOD: Duration = Duration::from_secs(1);

/// The time and the result of the last sample.
#[derive(Debug, Default)]
pub(super) struct OutstandingSampler {
    last: Option<Instant>,
    /// Requests were outstanding.
    found: bool,
}

impl OutstandingSampler {
    /// Whether a sample is due; if so, counts it as taken. The first is due one period from now.
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.last.map(|last| last.elapsed() >= PERIOD);
        if due != Some(false) {
            self.last = Some(Instant::now());
        }
        due == Some(true)
    }

    /// Whether to report the sample: requests are outstanding, or none are any more.
    pub(super) fn is_news(&mut self, found: bool) -> bool {
        std::mem::replace(&mut self.found, found) || found
    }

    /// How long to wait for the next sample. Stopped queues are sampled only once more.
    pub(super) fn timeout(&self, running: bool) -> PollTimeout {
        if !running && !self.found {
            return PollTimeout::NONE;
        }
        let since = self.last.map_or(PERIOD, |last| last.elapsed());
        // Round up: it must be due when we wake.
        let left = PERIOD.saturating_sub(since) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_news_once_after_something() {
        let mut sampler = OutstandingSampler::default();
        let news = [false, true, true, false, false].map(|found| sampler.is_news(found));
        assert_eq!(news, [false, true, true, true, false]);
    }

    #[test]
    fn queues_that_do_not_run_are_waited_for_without_end() {
        let mut sampler = OutstandingSampler::default();
        assert!(!sampler.is_due() && !sampler.is_due());
        assert_eq!(sampler.timeout(false), PollTimeout::NONE);
        assert_ne!(sampler.timeout(true), PollTimeout::NONE);
    }
}
