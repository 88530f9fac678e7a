// SPDX-License-Identifier: Apache-2.0
//! The measurements, and what they come to.

use std::fmt::Write as _;

use super::Case;
use super::contestant::{Contestant, Sample};

/// All measurements so far.
#[derive(Debug, Default)]
pub(crate) struct Table(Vec<(Case, Contestant, Sample)>);

impl Table {
    pub(crate) fn add(&mut self, case: &Case, contestant: Contestant, sample: Sample) {
        self.0.push((*case, contestant, sample));
    }

    /// The figures of one contestant, in the order in which they were measured.
    fn figures(
        &self,
        case: &Case,
        contestant: Contestant,
        figure: impl Fn(&Sample) -> f64,
    ) -> Vec<f64> {
        let of = self
            .0
            .iter()
            .filter(|(c, who, _)| c == case && *who == contestant);
        of.map(|(_, _, sample)| figure(sample)).collect()
    }

    /// How fast one is, the other being 1: the median of the rounds, in each of which both were
    /// measured within seconds.
    pub(crate) fn ratio(&self, case: &Case, one: Contestant, other: Contestant) -> Option<f64> {
        let one = self.figures(case, one, |sample| sample.iops);
        let other = self.figures(case, other, |sample| sample.iops);
        median(
            one.iter()
                .zip(other)
                .map(|(one, other)| one / other.max(1.0))
                .collect(),
        )
    }

    /// The most memory one ever had.
    pub(crate) fn rss_kib(&self, contestant: Contestant) -> u64 {
        let of = self.0.iter().filter(|(_, who, _)| *who == contestant);
        of.map(|(_, _, sample)| sample.rss_kib).max().unwrap_or(0)
    }

    /// One case, for people.
    pub(crate) fn section(&self, case: &Case) -> String {
        let mut text = format!(
            "\n{}\n{:<26} {:>9} {:>8} {:>7} {:>9} {:>9} {:>10}\n",
            case.title(),
            "",
            "IOPS",
            "MB/s",
            "vs raw",
            "p50 us",
            "p99 us",
            "cpu us/IO"
        );
        for contestant in Contestant::all(case) {
            let middle = |figure: fn(&Sample) -> f64| {
                median(self.figures(case, contestant, figure)).unwrap_or(0.0)
            };
            let iops = middle(|sample| sample.iops);
            let ratio = self
                .ratio(case, contestant, Contestant::FioUring)
                .unwrap_or(0.0);
            let _ = writeln!(
                text,
                "{:<26} {iops:>9.0} {:>8.1} {ratio:>7.2} {:>9.1} {:>9.1} {:>10.1}",
                contestant.name(),
                iops * f64::from(case.block_bytes) / 1e6,
                middle(|sample| sample.p50_us),
                middle(|sample| sample.p99_us),
                middle(|sample| sample.cpu_us),
            );
        }
        text
    }
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let last = figures.len().checked_sub(1)?;
    Some(f64::midpoint(figures[last / 2], figures[last.div_ceil(2)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_or_between_the_two_in_the_middle() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
