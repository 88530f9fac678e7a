// SPDX-License-Identifier: Apache-2.0
//! What an engine does when the kernel refuses a batch: whether to retry, and how long to wait
//! first.
//!
//! Runs on the worker thread that owns the queue.

use std::io;
use std::time::Duration;

/// The first pause.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// The longest pause. Pings come every half second, and the worker must answer them.
const PAUSE_MAX: Duration = Duration::from_millis(64);

/// The engine has failed for good. Every request it has stays in flight: the process must end, and
/// the next generation takes them up with a new engine.
#[derive(Debug, thiserror::Error)]
#[error("io_uring_enter fails, and trying again will not help")]
pub struct EngineError(#[source] pub io::Error);

/// Why the kernel did not take a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A signal came: retry at once.
    Interrupted,
    /// The kernel is short of memory or wants completions reaped first: retry later.
    ForNow,
    /// The ring is unusable: retrying would loop for ever.
    ForGood,
}

impl Refusal {
    /// Classifies the errors of io_uring_enter(2).
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EINTR) => Self::Interrupted,
            Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Self::ForNow,
            _ => Self::ForGood,
        }
    }
}

/// Pauses between retries, each twice as long as the previous one.
#[derive(Debug)]
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSE_MIN)
    }
}

impl Pause {
    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = (2 * now).min(PAUSE_MAX);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        for (errno, expected) in [
            (libc::EINTR, Refusal::Interrupted),
            (libc::EAGAIN, Refusal::ForNow),
            (libc::EBUSY, Refusal::ForNow),
            (libc::ENOMEM, Refusal::ForNow),
            (libc::EBADF, Refusal::ForGood),
            (libc::EBADFD, Refusal::ForGood),
            (libc::EINVAL, Refusal::ForGood),
            (libc::ENXIO, Refusal::ForGood),
            (libc::EOPNOTSUPP, Refusal::ForGood),
            (libc::EOWNERDEAD, Refusal::ForGood),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(Refusal::of(&error), expected, "{error}");
        }
    }

    #[test]
    fn pauses_grow_to_the_longest_and_no_further() {
        let mut pause = Pause::default();
        let all: Vec<_> = (0..9).map(|_| pause.next().as_millis()).collect();
        assert_eq!(all, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }
}
