// SPDX-License-Identifier: Apache-2.0
//! When a backend follows one that died, and when none does any more. Pure.

use std::collections::VecDeque;

const MS_NS: u64 = 1_000_000;
/// The pauses before the first, second, ... restart within [`WINDOW_NS`]; the last one repeats.
const PAUSES_NS: [u64; 4] = [0, 10 * MS_NS, 100 * MS_NS, 1000 * MS_NS];
/// How long a crash counts.
const WINDOW_NS: u64 = 60_000 * MS_NS;
/// So many crashes within the window stall the device.
const CRASHES_MAX: usize = 5;

/// What follows a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartDecision {
    /// Another backend, not before this time.
    At(u64),
    /// No other backend.
    Never,
}

/// The crashes of one device's backends.
#[derive(Debug, Default)]
pub(crate) struct Restarts {
    recent_ns: VecDeque<u64>,
    total: u32,
}

impl Restarts {
    /// Counts the death of a backend.
    pub(crate) fn crashed(&mut self, now_ns: u64) -> RestartDecision {
        self.total = self.total.saturating_add(1);
        let old = |then: &u64| now_ns.saturating_sub(*then) >= WINDOW_NS;
        while self.recent_ns.front().is_some_and(old) {
            self.recent_ns.pop_front();
        }
        let before = self.recent_ns.len();
        self.recent_ns.push_back(now_ns);
        if self.recent_ns.len() >= CRASHES_MAX {
            return RestartDecision::Never;
        }
        let pause_ns = PAUSES_NS[before.min(PAUSES_NS.len() - 1)];
        RestartDecision::At(now_ns + pause_ns)
    }

    /// Forgets past crashes, so that the next backend follows at once.
    pub(crate) fn reset_backoff(&mut self) {
        self.recent_ns.clear();
    }

    /// How many backends have died.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_in_a_row_are_followed_later_and_later_and_then_not() {
        let mut restarts = Restarts::default();
        for pause_ms in [0, 10, 100, 1000] {
            assert_eq!(
                restarts.crashed(5),
                RestartDecision::At(5 + pause_ms * 1_000_000)
            );
        }
        assert_eq!(restarts.crashed(5), RestartDecision::Never);
        assert_eq!(restarts.total(), 5);
    }

    #[test]
    fn crashes_forgiven_do_not_count() {
        let mut restarts = Restarts::default();
        while restarts.crashed(5) != RestartDecision::Never {}
        restarts.reset_backoff();
        assert_eq!(restarts.crashed(5), RestartDecision::At(5));
        assert_eq!(restarts.total(), 6);
    }

    #[test]
    fn crashes_long_ago_do_not_count() {
        let mut restarts = Restarts::default();
        for n in 0..20 {
            let now_ns = n * WINDOW_NS / 3;
            let RestartDecision::At(then_ns) = restarts.crashed(now_ns) else {
                unreachable!("a crash every 20 s is bearable");
            };
            assert!(then_ns <= now_ns + PAUSES_NS[2]);
        }
    }

    #[test]
    fn crash_counts_for_a_minute_and_not_longer() {
        const MINUTE_NS: u64 = 60_000_000_000;
        let second_after = |ns| {
            let mut restarts = Restarts::default();
            restarts.crashed(5);
            restarts.crashed(5 + ns)
        };
        let then_ns = 5 + MINUTE_NS;
        assert_eq!(second_after(MINUTE_NS), RestartDecision::At(then_ns));
        let then_ns = 5 + MINUTE_NS - 1 + 10_000_000;
        assert_eq!(second_after(MINUTE_NS - 1), RestartDecision::At(then_ns));
    }
}
