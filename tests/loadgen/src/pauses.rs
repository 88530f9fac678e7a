// SPDX-License-Identifier: Apache-2.0
//! The longest times during which nothing happened, as somebody inside a guest sees them.

use std::fmt;
use std::time::{Duration, Instant};

/// How many are kept.
const KEPT: usize = 16;

/// Notices pauses between events.
#[derive(Debug)]
pub struct Pauses {
    last: Instant,
    /// The longest first.
    longest: Vec<Duration>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            last: Instant::now(),
            longest: Vec::with_capacity(KEPT + 1),
        }
    }
}

impl Pauses {
    /// Something happened.
    pub fn event(&mut self) {
        let now = Instant::now();
        self.note(now - self.last);
        self.last = now;
    }

    fn note(&mut self, pause: Duration) {
        let place = self.longest.partition_point(|longer| *longer >= pause);
        self.longest.insert(place, pause);
        self.longest.truncate(KEPT);
    }

    /// The longest pause.
    pub fn longest(&self) -> Duration {
        self.longest.first().copied().unwrap_or_default()
    }
}

impl fmt::Display for Pauses {
    /// All that were kept, in ms.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pause) in self.longest.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{:.1}", pause.as_secs_f64() * 1e3)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_pauses_are_kept_in_order_and_the_others_are_not() {
        let mut pauses = Pauses::default();
        for ms in (0..40).chain(20..30) {
            pauses.note(Duration::from_millis(ms));
        }
        assert_eq!(pauses.longest(), Duration::from_millis(39));
        let told = pauses.to_string();
        assert!(told.starts_with("39.0,38.0,37.0"), "{told}");
        assert_eq!(told.split(',').count(), KEPT);
    }
}
