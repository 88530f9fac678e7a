// SPDX-License-Identifier: Apache-2.0
//! Our network backend on a tap, driven by this generator, against one thread that writes to and
//! reads from a tap itself, which is the limit.
//!
//! Both taps are in a network namespace made for it, where nothing listens: the kernel drops what is
//! sent as soon as it has looked at the address. What is received waits in the tap before the clock
//! starts, so that nobody has to make it meanwhile. Runs are interleaved and medians are taken.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use loadgen::net::host::enter_namespace;

use crate::bench::machine;

mod bare;
mod served;
mod traffic;

/// `bench-net`
#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// Our backend's program.
    #[arg(long)]
    backend: PathBuf,
    /// For how many seconds each measurement of sending runs.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// How often each is made.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Only the measurements whose name has this in it.
    #[arg(long, default_value = "")]
    only: String,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    Send(usize),
    Receive(usize),
    /// One frame there and one back, the driver looking for it awake or halting.
    PingPong {
        halting: bool,
    },
}

/// The length of a frame that is segmented later.
pub(crate) const LONG: usize = 65226;

const CASES: [Case; 8] = [
    Case::Send(64),
    Case::Send(1500),
    Case::Send(LONG),
    Case::Receive(64),
    Case::Receive(1500),
    Case::Receive(LONG),
    Case::PingPong { halting: false },
    Case::PingPong { halting: true },
];

/// One measurement: frames per second or, of a ping-pong, µs for the middle one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    pub(crate) p99_us: f64,
    /// Processor time per frame of whoever is measured.
    pub(crate) cpu_us: f64,
    pub(crate) rss_kib: u64,
}

impl Case {
    fn title(self) -> String {
        match self {
            Self::Send(len) => format!("send {len}"),
            Self::Receive(len) => format!("receive {len}"),
            Self::PingPong { halting: false } => "ping-pong, driver awake".into(),
            Self::PingPong { halting: true } => "ping-pong, driver halts".into(),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Send(len) | Self::Receive(len) => len,
            Self::PingPong { .. } => 0,
        }
    }
}

/// The figures of one case: of the backend, and of the bare tap.
#[derive(Debug, Default)]
struct Figures {
    served: Vec<Sample>,
    bare: Vec<Sample>,
}

impl Figures {
    fn ratio(&self) -> f64 {
        let pairs = self.served.iter().zip(&self.bare);
        median(pairs.map(|(s, b)| s.value / b.value.max(1e-9)).collect())
    }

    /// The same by processor time per frame: what is left of it where others use the processors too.
    fn cpu_ratio(&self) -> f64 {
        let pairs = self.served.iter().zip(&self.bare);
        median(pairs.map(|(s, b)| b.cpu_us / s.cpu_us.max(1e-9)).collect())
    }

    fn line(&self, case: Case) -> String {
        let of = |samples: &[Sample], figure: fn(&Sample) -> f64| {
            median(samples.iter().map(figure).collect())
        };
        let (ours, bare) = (of(&self.served, |s| s.value), of(&self.bare, |s| s.value));
        let (cpu, bare_cpu) = (of(&self.served, |s| s.cpu_us), of(&self.bare, |s| s.cpu_us));
        let ratio = self.ratio();
        let p99 = of(&self.served, |s| s.p99_us);
        match case.bytes() {
            0 => format!("{ours:>8.1} us, p99 {p99:.1} us; bare tap {bare:.1} us"),
            len => format!(
                "{:>8.0} k/s {:>7.2} Gbit/s, bare tap {:>6.0} k/s, ratio {ratio:.2}; \
                 {cpu:.2} us of processor time per frame, bare tap {bare_cpu:.2}, ratio {:.2}",
                ours / 1e3,
                ours * 8.0 * f64::from(u32::try_from(len).unwrap_or(0)) / 1e9,
                bare / 1e3,
                self.cpu_ratio(),
            ),
        }
    }
}

/// Measures, prints the table and the line of results.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    enter_namespace()?;
    println!("{}", machine::describe());
    let duration = Duration::from_secs_f64(options.seconds);
    let mut all = Vec::new();
    for case in CASES {
        if !case.title().contains(&options.only) {
            continue;
        }
        let mut figures = Figures::default();
        for _ in 0..options.runs {
            figures.bare.push(bare::measure(case, duration)?);
            let sample = served::measure(&options.backend, case, duration)?;
            figures.served.push(sample);
        }
        println!("{:<26} {}", case.title(), figures.line(case));
        all.push((case, figures));
    }
    println!("{}", result_line(&all));
    Ok(())
}

/// The line that scripts read.
fn result_line(all: &[(Case, Figures)]) -> String {
    let find = |case: Case| {
        all.iter()
            .find(|(c, _)| *c == case)
            .map(|(_, figures)| figures)
    };
    let ratio = |case| find(case).map_or(0.0, Figures::ratio);
    let cpu_ratio = |case| find(case).map_or(0.0, Figures::cpu_ratio);
    let ping_pong = |halting| {
        let figures = find(Case::PingPong { halting });
        let values = figures.map(|f| f.served.iter().map(|s| s.value).collect());
        median(values.unwrap_or_default())
    };
    let samples = all.iter().flat_map(|(_, figures)| &figures.served);
    let rss_kib = samples.map(|sample| sample.rss_kib).max().unwrap_or(0);
    format!(
        "RESULT tx64_vs_tap={:.2} rx64_vs_tap={:.2} tso_vs_tap={:.2} tso_rx_vs_tap={:.2} \
         tx64_cpu_vs_tap={:.2} rx64_cpu_vs_tap={:.2} tso_cpu_vs_tap={:.2} \
         pingpong_p50_us={:.1} pingpong_halting_p50_us={:.1} rss_kib={rss_kib}",
        ratio(Case::Send(64)),
        ratio(Case::Receive(64)),
        ratio(Case::Send(LONG)),
        ratio(Case::Receive(LONG)),
        cpu_ratio(Case::Send(64)),
        cpu_ratio(Case::Receive(64)),
        cpu_ratio(Case::Send(LONG)),
        ping_pong(false),
        ping_pong(true),
    )
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => 0.0,
        len => f64::midpoint(figures[(len - 1) / 2], figures[len / 2]),
    }
}
