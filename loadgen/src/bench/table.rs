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

    /// The median of a figure.
    fn median(
        &self,
        case: &Case,
        contestant: Contestant,
        figure: impl Fn(&Sample) -> f64,
    ) -> Option<f64> {
        let of = self
            .0
            .iter()
            .filter(|(c, who, _)| c == case && *who == contestant);
        let mut figures: Vec<f64> = of.map(|(_, _, sample)| figure(sample)).collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len().checked_sub(1)?;
        Some(f64::midpoint(figures[last / 2], figures[last.div_ceil(2)]))
    }

    /// How fast one is, the other being 1.
    pub(crate) fn ratio(&self, case: &Case, one: Contestant, other: Contestant) -> Option<f64> {
        let one = self.median(case, one, |sample| sample.iops)?;
        let other = self.median(case, other, |sample| sample.iops)?;
        (other > 0.0).then_some(one / other)
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
            let median =
                |figure: fn(&Sample) -> f64| self.median(case, contestant, figure).unwrap_or(0.0);
            let iops = median(|sample| sample.iops);
            let ratio = self
                .ratio(case, contestant, Contestant::FioUring)
                .unwrap_or(0.0);
            let _ = writeln!(
                text,
                "{:<26} {iops:>9.0} {:>8.1} {ratio:>7.2} {:>9.1} {:>9.1} {:>10.1}",
                contestant.name(),
                iops * f64::from(case.block_bytes) / 1e6,
                median(|sample| sample.p50_us),
                median(|sample| sample.p99_us),
                median(|sample| sample.cpu_us),
            );
        }
        text
    }
}
