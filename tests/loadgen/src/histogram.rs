// SPDX-License-Identifier: Apache-2.0
//! Latencies, counted in buckets whose width is at most 1/32 of their value.

/// The buckets of each power of two.
const STEPS: u64 = 32;
const BUCKETS: usize = 64 * 32;

/// A histogram of nanoseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }
}

impl Histogram {
    /// Counts a latency.
    pub fn add(&mut self, ns: u64) {
        let bucket = bucket(ns).min(BUCKETS - 1);
        self.buckets[bucket] += 1;
        self.count += 1;
    }

    /// Adds another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.count += other.count;
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The latency that `per_mille` of a thousand do not exceed.
    pub fn at(&self, per_mille: u64) -> u64 {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return value(index as u64);
            }
        }
        0
    }
}

fn bucket(ns: u64) -> usize {
    let index = if ns < STEPS {
        ns
    } else {
        let power = u64::from(ns.ilog2()) - 5;
        (power + 1) * STEPS + ((ns >> power) - STEPS)
    };
    usize::try_from(index).unwrap_or(BUCKETS)
}

/// The lower end of a bucket.
fn value(bucket: u64) -> u64 {
    if bucket < STEPS {
        return bucket;
    }
    let power = bucket / STEPS - 1;
    (STEPS + bucket % STEPS) << power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_of_a_value_begins_at_most_a_32nd_below_it() {
        for ns in [0, 1, 31, 32, 33, 1000, 65_535, 123_456_789, 1 << 40] {
            let low = value(bucket(ns) as u64);
            assert!(low <= ns && ns - low <= ns / 32, "{ns} {low}");
        }
    }

    #[test]
    fn percentiles_of_a_uniform_distribution_are_where_they_should_be() {
        let mut histogram = Histogram::default();
        (1..=10_000).for_each(|ns| histogram.add(ns));
        assert!(histogram.at(500).abs_diff(5000) < 200);
        assert!(histogram.at(990).abs_diff(9900) < 320);
    }
}
