// SPDX-License-Identifier: Apache-2.0
//! `loadgen`: loads, measures and checks a vhost-user disk backend without a guest.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use loadgen::connection::Connection;
use loadgen::disk::{Queue, QueueOptions};
use loadgen::load::{self, Load};
use loadgen::memory::Memory;
use loadgen::ring::RingOptions;

mod report;

/// Load, measure and check a vhost-user disk backend without a guest.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the queues busy and say how fast it went.
    Load(LoadOptions),
}

/// How to reach the backend, and what its queues are to be.
#[derive(Debug, Args)]
struct Target {
    /// The backend's socket.
    #[arg(long)]
    socket: PathBuf,
    /// The number of queues.
    #[arg(long, default_value_t = 1)]
    queues: u16,
    /// The entries of each queue.
    #[arg(long, default_value_t = 256)]
    queue_size: u16,
    /// Into how many descriptors the data of a request is cut.
    #[arg(long, default_value_t = 1)]
    segments: u16,
    /// Do not use indirect descriptors.
    #[arg(long)]
    no_indirect: bool,
    /// Do not use EVENT_IDX.
    #[arg(long)]
    no_event_idx: bool,
}

#[derive(Debug, Args)]
struct LoadOptions {
    #[command(flatten)]
    target: Target,
    /// How many of a hundred requests are writes.
    #[arg(long, default_value_t = 0)]
    write_percent: u8,
    /// Sequential instead of random.
    #[arg(long)]
    sequential: bool,
    /// The length of each request in bytes.
    #[arg(long, default_value_t = 4096)]
    block: u32,
    /// How many requests each queue has outstanding.
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// For how many seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Requests per second and queue.
    #[arg(long)]
    rate: Option<u64>,
    /// The part of the disk to use, in MiB; all of it by default.
    #[arg(long)]
    span_mib: Option<u64>,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long the driver looks for completions, awake, before it sleeps.
    #[arg(long, default_value_t = 50)]
    spin_us: u64,
    /// The backend's process, to say how much processor time it took.
    #[arg(long)]
    backend_pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Load(options) => run_load(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("loadgen: {e:#}");
            ExitCode::FAILURE
        }
    }
}

impl Target {
    /// Connects, and starts queues with room for `depth` requests of `buffer_bytes`.
    fn start(
        &self,
        depth: u16,
        buffer_bytes: u32,
    ) -> Result<(Connection, Memory, Vec<Queue>, u64)> {
        let mut connection = Connection::open(&self.socket, Duration::from_secs(5))?;
        let config = connection.config()?;
        let buffers = u64::from(buffer_bytes) * u64::from(depth) * u64::from(self.queues);
        let mut memory = Memory::new((buffers + (8 << 20)).next_multiple_of(4 << 20))?;
        let options = QueueOptions {
            ring: RingOptions {
                size: self.queue_size,
                event_idx: !self.no_event_idx,
                start: 0,
            },
            depth,
            buffer_bytes,
            segments: self.segments,
            indirect: !self.no_indirect,
        };
        let heads = if self.no_indirect {
            depth * (self.segments + 2)
        } else {
            depth
        };
        ensure!(
            heads <= self.queue_size,
            "the queue is too small for this depth"
        );
        let queues = (0..self.queues)
            .map(|_| Queue::new(&mut memory, options))
            .collect::<Result<Vec<_>, _>>()?;
        let places: Vec<_> = queues.iter().map(Queue::place).collect();
        connection.start(self.features(connection.offered()), &memory, &places)?;
        Ok((connection, memory, queues, config.capacity_bytes))
    }

    /// Of what is offered, what a current Linux driver would take.
    fn features(&self, offered: u64) -> u64 {
        let bit = |bit: u32, wanted: bool| u64::from(wanted) << bit;
        let wanted = bit(32, true)
            | bit(29, !self.no_event_idx)
            | bit(28, !self.no_indirect)
            | bit(1, true)
            | bit(2, true)
            | bit(5, true)
            | bit(6, true)
            | bit(9, true)
            | bit(10, true)
            | bit(12, true)
            | bit(13, true)
            | bit(14, true);
        offered & wanted
    }
}

fn run_load(options: &LoadOptions) -> Result<()> {
    let target = &options.target;
    let (_connection, memory, mut queues, capacity) = target.start(options.depth, options.block)?;
    let span = options
        .span_mib
        .map_or(capacity, |mib| (mib << 20).min(capacity));
    let load = Load {
        write_percent: options.write_percent,
        random: !options.sequential,
        block_bytes: options.block,
        depth: options.depth,
        duration: Duration::from_secs_f64(options.seconds),
        rate: options.rate,
        span_bytes: span,
        seed: options.seed,
        spin: Duration::from_micros(options.spin_us),
    };
    let before = options.backend_pid.map(report::cpu_seconds);
    let outcome = load::run(&memory, &mut queues, &load)?;
    let cpu = options.backend_pid.map(report::cpu_seconds);
    let cpu = before.zip(cpu).map(|(before, after)| after - before);
    let report = report::Report::new(&outcome, options.block, cpu);
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    ensure!(outcome.errors == 0, "{} requests failed", outcome.errors);
    Ok(())
}
