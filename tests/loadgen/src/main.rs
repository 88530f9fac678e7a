// SPDX-License-Identifier: Apache-2.0
//! `loadgen`: loads, measures and checks a vhost-user disk backend without a guest.

mod bench;
mod bench_net;
mod crash_command;
mod inside;
mod report;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use loadgen::exercise::{self, Known};
use loadgen::load::{self, Load};
use loadgen::verify::{self, Log, Verify};
use target::Target;

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
    /// Write blocks that say what they are, read them back and log what was acknowledged.
    Verify(VerifyOptions),
    /// Check an image against the log of a verify run.
    Check(CheckOptions),
    /// Make every kind of request and see what comes of it. Overwrites the first 64 KiB.
    Exercise(Target),
    /// Inside a guest: write and read a file or block device, and check every block.
    File(inside::FileOptions),
    /// Inside a guest: receive a stream from `serve`, and check every byte.
    Stream(inside::StreamOptions),
    /// Send a stream to the first who connects.
    Serve(inside::ServeOptions),
    /// Let a backend of ours be killed, stall or crash, and say what the driver noticed.
    CrashTests(crash_command::CrashOptions),
    /// Measure our backend, QEMU's storage daemon and fio on the same file.
    BenchBlk(bench::BenchOptions),
    /// Measure our network backend beside bare writes to and reads from a tap.
    BenchNet(bench_net::BenchOptions),
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

#[derive(Debug, Args)]
struct VerifyOptions {
    #[command(flatten)]
    target: Target,
    /// Where to log what was acknowledged.
    #[arg(long)]
    log: PathBuf,
    /// The length of a block in bytes.
    #[arg(long, default_value_t = 4096)]
    block: u32,
    /// How many requests each queue has outstanding.
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// For how many seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The part of the disk to use, in MiB.
    #[arg(long, default_value_t = 64)]
    span_mib: u64,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
struct CheckOptions {
    /// The log of the verify run.
    #[arg(long)]
    log: PathBuf,
    /// The image.
    #[arg(long)]
    image: PathBuf,
    /// The length of a block in bytes.
    #[arg(long, default_value_t = 4096)]
    block: u32,
}

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Load(options) => run_load(&options),
        Command::Verify(options) => run_verify(&options),
        Command::Check(options) => run_check(&options),
        Command::Exercise(target) => run_exercise(&target),
        Command::File(options) => inside::file(&options),
        Command::Stream(options) => inside::stream(&options),
        Command::Serve(options) => inside::serve(&options),
        Command::CrashTests(options) => crash_command::run(&options),
        Command::BenchBlk(options) => bench::run(&options),
        Command::BenchNet(options) => bench_net::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("loadgen: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_load(options: &LoadOptions) -> Result<()> {
    let mut attached = options.target.start(options.depth, options.block)?;
    let all = attached.capacity_bytes;
    let load = Load {
        write_percent: options.write_percent,
        random: !options.sequential,
        block_bytes: options.block,
        depth: options.depth,
        duration: Duration::from_secs_f64(options.seconds),
        rate: options.rate,
        span_bytes: options.span_mib.map_or(all, |mib| (mib << 20).min(all)),
        seed: options.seed,
        spin: Duration::from_micros(options.spin_us),
    };
    let before = options.backend_pid.map(report::cpu_seconds);
    let outcome = load::run(&attached.memory, &mut attached.queues, &load)?;
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

fn run_verify(options: &VerifyOptions) -> Result<()> {
    let mut attached = options.target.start(options.depth, options.block)?;
    let span = (options.span_mib << 20).min(attached.capacity_bytes);
    let plan = Verify {
        block_bytes: options.block,
        depth: options.depth,
        duration: Duration::from_secs_f64(options.seconds),
        requests: 0,
        blocks: span / u64::from(options.block),
        seed: options.seed,
        patience: verify::PATIENCE,
        stop: Arc::default(),
        gaps: None,
    };
    let log = Log::create(&options.log)?;
    let outcome = verify::run(&attached.memory, &mut attached.queues, &plan, &log)?;
    log.finish()?;
    println!(
        "{} writes, {} reads, {} flushes, {} errors, {} mismatches, longest pause {:.1} ms",
        outcome.writes,
        outcome.reads,
        outcome.flushes,
        outcome.errors,
        outcome.mismatches.len(),
        outcome.longest_pause.as_secs_f64() * 1e3
    );
    if let Some(first) = outcome.mismatches.first() {
        bail!("{first}");
    }
    ensure!(outcome.errors == 0, "{} requests failed", outcome.errors);
    Ok(())
}

fn run_check(options: &CheckOptions) -> Result<()> {
    let (checked, wrong) = verify::check_image(&options.log, &options.image, options.block)?;
    println!("{checked} blocks, {} mismatches", wrong.len());
    match wrong.first() {
        Some(first) => bail!("{first}"),
        None => Ok(()),
    }
}

fn run_exercise(target: &Target) -> Result<()> {
    let mut attached = target.start(1, 65536)?;
    let has = |bit: u32| attached.features & (1 << bit) != 0;
    let known = Known {
        capacity_bytes: attached.capacity_bytes,
        block_bytes: attached.block_bytes,
        readonly: has(5),
        discard: has(13),
        write_zeroes: has(14),
    };
    let Some(queue) = attached.queues.first_mut() else {
        bail!("there is no queue");
    };
    let (serial, made) = exercise::run(&attached.memory, queue, known)?;
    println!("{made} requests as expected, serial number {serial:?}");
    Ok(())
}
