// SPDX-License-Identifier: Apache-2.0
//! The gaps between completions that a driver wrote down: pairs of times of the monotonic clock, in
//! nanoseconds.

/// How long after `then_ns` something completed again: the end of the longest gap that began around
/// that time, at most `around_ns` behind it.
#[must_use]
pub fn pause_ns(gaps: &[(u64, u64)], then_ns: u64, around_ns: u64) -> Option<u64> {
    let near = gaps.iter().filter(|(from, to)| {
        *to > then_ns && *from < then_ns + around_ns && from + 4_000_000_000 > then_ns
    });
    let longest = near.max_by_key(|(from, to)| to - from)?;
    Some(longest.1 - then_ns)
}

/// The length of the longest gap that ended after `then_ns`. It does not matter how long after that time
/// it began: what makes a backend hang may itself take a while on a busy machine.
#[must_use]
pub fn longest_gap_ns(gaps: &[(u64, u64)], then_ns: u64) -> Option<u64> {
    let later = gaps.iter().filter(|(_, to)| *to > then_ns);
    later.map(|(from, to)| to - from).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_gap_may_begin_long_after() {
        let gaps = [(0, 40), (50, 60), (900, 920)];
        assert_eq!(longest_gap_ns(&gaps, 50), Some(20));
        assert_eq!(longest_gap_ns(&gaps, 920), None);
    }

    #[test]
    fn pause_is_that_of_the_longest_gap_around() {
        let ms = 1_000_000;
        let gaps = [
            (0, ms),
            (9 * ms, 11 * ms),
            (12 * ms, 19 * ms),
            (90 * ms, 99 * ms),
        ];
        assert_eq!(pause_ns(&gaps, 10 * ms, 20 * ms), Some(9 * ms));
        assert_eq!(pause_ns(&gaps, 100 * ms, 20 * ms), None);
    }
}
