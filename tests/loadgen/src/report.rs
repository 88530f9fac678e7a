// SPDX-License-Identifier: Apache-2.0
//! What a load came to, for people and for programs.

use std::fmt;

use loadgen::load::Outcome;
use serde::{Deserialize, Serialize};

/// The result of a load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) seconds: f64,
    pub(crate) iops: f64,
    pub(crate) mb_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Processor time of the backend per request, if its process is known.
    pub(crate) cpu_us_per_request: Option<f64>,
}

impl Report {
    pub(crate) fn new(outcome: &Outcome, block_bytes: u32, cpu_seconds: Option<f64>) -> Self {
        let seconds = outcome.elapsed.as_secs_f64();
        let requests = precise(outcome.requests);
        let us = |per_mille| precise(outcome.latency.at(per_mille)) / 1e3;
        Self {
            requests: outcome.requests,
            errors: outcome.errors,
            seconds,
            iops: requests / seconds,
            mb_per_s: requests * f64::from(block_bytes) / seconds / 1e6,
            p50_us: us(500),
            p99_us: us(990),
            p999_us: us(999),
            cpu_us_per_request: cpu_seconds.map(|cpu| cpu * 1e6 / requests.max(1.0)),
        }
    }
}

/// A count as a number for arithmetic; exact up to 2^53.
pub(crate) fn precise(count: u64) -> f64 {
    let (high, low) = (count >> 32, count & 0xffff_ffff);
    let part = |value| f64::from(u32::try_from(value).unwrap_or(u32::MAX));
    part(high) * 4_294_967_296.0 + part(low)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} IOPS, {:.1} MB/s, latency p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, {} errors",
            self.iops, self.mb_per_s, self.p50_us, self.p99_us, self.p999_us, self.errors
        )?;
        match self.cpu_us_per_request {
            Some(cpu) => write!(f, ", backend {cpu:.1} us of processor time per request"),
            None => Ok(()),
        }
    }
}

/// The processor time that a process has taken, user and system, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces; utime and stime are the 14th and 15th field.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = rest.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    // USER_HZ is 100 in every Linux ABI there is.
    precise(ticks) / 100.0
}
