// SPDX-License-Identifier: Apache-2.0
//! Latencies in nanoseconds, counted to two digits.

use hdrhistogram::Histogram as Counts;

/// Longer than anything that is measured: latencies above it count as this.
const MOST_NS: u64 = 1 << 46;

/// A histogram of nanoseconds.
#[derive(Debug, Clone)]
pub struct Histogram(Counts<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(Counts::new_with_max(MOST_NS, 2).expect("bounds that are in order"))
    }
}

impl Histogram {
    /// Counts a latency.
    pub fn add(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        // It fails only with a longer latency than this one can have: both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that `per_mille` of a thousand do not exceed; 0 if none was counted.
    pub fn at(&self, per_mille: u64) -> u64 {
        let value = self.0.value_at_quantile(per_mille as f64 / 1000.0);
        self.0.lowest_equivalent(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_counted_reads_back_at_most_a_32nd_below_it() {
        for ns in [0, 1, 31, 32, 33, 1000, 65_535, 123_456_789, 1 << 40] {
            let mut histogram = Histogram::default();
            histogram.add(ns);
            let low = histogram.at(500);
            assert!(low <= ns && ns - low <= ns / 32, "{ns} {low}");
        }
    }

    #[test]
    fn percentiles_of_a_uniform_distribution_are_where_they_should_be() {
        let (mut histogram, mut even) = (Histogram::default(), Histogram::default());
        for ns in 1..=10_000 {
            let half = if ns % 2 == 0 {
                &mut even
            } else {
                &mut histogram
            };
            half.add(ns);
        }
        histogram.merge(&even);
        assert_eq!(histogram.count(), 10_000);
        assert!(histogram.at(500).abs_diff(5000) < 200);
        assert!(histogram.at(990).abs_diff(9900) < 320);
        assert_eq!(Histogram::default().at(990), 0);
    }
}
