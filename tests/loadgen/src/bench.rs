// SPDX-License-Identifier: Apache-2.0
//! Our disk backend against QEMU's storage daemon, each driven by this generator, and against fio on
//! the same file without any backend, which is the limit.
//!
//! Runs are interleaved and medians are taken: what the machine does meanwhile meets everyone.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

mod contestant;
pub(crate) mod machine;
mod table;

use contestant::Contestant;
use table::Table;

/// `bench-blk`
#[derive(Debug, Args)]
pub(crate) struct BenchOptions {
    /// Our backend's program.
    #[arg(long)]
    backend: PathBuf,
    /// The file to measure on; it is created and filled if it is not there.
    #[arg(long)]
    file: PathBuf,
    /// Its size in MiB.
    #[arg(long, default_value_t = 4096)]
    size_mib: u64,
    /// For how many seconds each measurement runs.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How often each is made.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only the measurements that are in the last line.
    #[arg(long)]
    short: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    name: &'static str,
    write: bool,
    random: bool,
    block_bytes: u32,
    depth: u16,
    queues: u16,
    direct: bool,
}

const fn case(name: &'static str, (write, random): (bool, bool), block: u32, depth: u16) -> Case {
    Case {
        name,
        write,
        random,
        block_bytes: block,
        depth,
        queues: 1,
        direct: true,
    }
}

const CASES: [Case; 5] = [
    case("randread 4k depth 1", (false, true), 4096, 1),
    case("randread 4k depth 32", (false, true), 4096, 32),
    case("randwrite 4k depth 32", (true, true), 4096, 32),
    case("read 128k depth 8", (false, false), 131_072, 8),
    case("write 128k depth 8", (true, false), 131_072, 8),
];

impl Case {
    fn title(&self) -> String {
        let cache = if self.direct { "direct" } else { "cached" };
        format!("{}, {cache}, {} queue(s)", self.name, self.queues)
    }
}

/// All measurements, or those that the last line needs.
fn cases(short: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (direct, queues) in [(true, 1), (false, 1), (true, 2), (false, 2)] {
        cases.extend(CASES.iter().map(|case| Case {
            direct,
            queues,
            ..*case
        }));
    }
    let needed = |case: &Case| {
        let direct = case.direct && case.name != "write 128k depth 8";
        case.queues == 1 && (direct || case.name == "randread 4k depth 32")
    };
    cases.retain(|case| !short || needed(case));
    cases
}

/// Measures, prints the table and the line of results.
pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    machine::prepare(&options.file, options.size_mib)?;
    println!("{}", machine::describe());
    let mut table = Table::default();
    for case in cases(options.short) {
        if !case.direct {
            machine::warm(&options.file)?;
        }
        for _ in 0..options.runs {
            for contestant in Contestant::all(&case) {
                let sample = contestant
                    .measure(options, &case)
                    .with_context(|| format!("{} at {}", contestant.name(), case.title()))?;
                table.add(&case, contestant, sample);
            }
        }
        print!("{}", table.section(&case));
    }
    println!("{}", result_line(&table));
    Ok(())
}

/// The line that scripts read.
fn result_line(table: &Table) -> String {
    let [depth_1, depth_32, write, sequential, _] = CASES;
    let cached = Case {
        direct: false,
        ..depth_32
    };
    let (ours, raw) = (Contestant::Uring, Contestant::FioUring);
    let figures = [
        ("randread_qd32_vs_raw", table.ratio(&depth_32, ours, raw)),
        (
            "randread_qd32_vs_qsd",
            table.ratio(&depth_32, ours, Contestant::Qsd),
        ),
        ("randwrite_qd32_vs_raw", table.ratio(&write, ours, raw)),
        ("qd1_vs_raw", table.ratio(&depth_1, ours, raw)),
        (
            "cached_qd32_vs_psync",
            table.ratio(&cached, ours, Contestant::FioPsync),
        ),
        ("seqread_vs_raw", table.ratio(&sequential, ours, raw)),
    ];
    let mut line = String::from("RESULT");
    for (name, ratio) in figures {
        let _ = match ratio {
            Some(ratio) => write!(line, " {name}={ratio:.2}"),
            None => write!(line, " {name}=na"),
        };
    }
    let _ = write!(line, " rss_kib={}", table.rss_kib(ours));
    line
}

/// The time of one measurement.
fn duration(options: &BenchOptions) -> Duration {
    Duration::from_secs_f64(options.seconds)
}
