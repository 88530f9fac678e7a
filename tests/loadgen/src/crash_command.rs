// SPDX-License-Identifier: Apache-2.0
//! `loadgen crash-tests`: what befalls a backend, told in figures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use loadgen::crash_tests::{
    Harness, HarnessOptions, killed, make_image, poison, stale, stores, suppressed,
};
use loadgen::histogram::Histogram;
use loadgen::supervised::Fence;
use tempfile::TempDir;

/// The size of images that are made here.
const IMAGE_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(crate) struct CrashOptions {
    /// The backend's program.
    #[arg(long)]
    binary: PathBuf,
    /// The image, which is overwritten; by default one is made.
    #[arg(long)]
    image: Option<PathBuf>,
    /// How the backend does its I/O.
    #[arg(long, value_enum, default_value = "uring")]
    engine: Engine,
    /// Use the page cache.
    #[arg(long)]
    buffered: bool,
    /// The number of queues.
    #[arg(long, default_value_t = 4)]
    queues: u16,
    /// How many requests each has outstanding.
    #[arg(long, default_value_t = 32)]
    depth: u16,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(subcommand)]
    crash: CrashTest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Engine {
    Uring,
    Threads,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FenceName {
    /// Wait for everything the dead one had begun.
    Whole,
    /// Wait for the end of its process.
    Process,
    /// Wait for nothing.
    Off,
}

#[derive(Debug, Subcommand)]
enum CrashTest {
    /// Kill it at random moments under a verified load.
    Kill {
        /// How often.
        #[arg(long, default_value_t = 20)]
        kills: u32,
    },
    /// Kill it under a verified load and bring the next one only after a time.
    Away {
        /// For how many seconds.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// Kill it with requests in flight to a slow device, go on without the delay, and look for
    /// stale writes and late reads.
    Stale {
        /// The storage behind the image, without the delay.
        #[arg(long)]
        fast: PathBuf,
        /// The delay of the image.
        #[arg(long, default_value_t = 500)]
        delay_ms: u64,
        /// How often.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// What the next generation waits for.
        #[arg(long, value_enum, default_value = "whole", hide = true)]
        fence: FenceName,
    },
    /// Let it die with notifications suppressed.
    Suppressed {
        /// How often.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Let it die between publishing completions and calling.
    Uncalled {
        /// How often.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Give it a request that kills it.
    Poison,
    /// Let it die after the first, second, … store to memory that outlives it, on one queue.
    Stores {
        /// How many requests it is given at once.
        #[arg(long, default_value_t = 8)]
        batch: u16,
    },
}

/// Does it, and says what came of it; an error if that breaks the contract.
pub(crate) fn run(options: &CrashOptions) -> Result<()> {
    let dir = TempDir::with_prefix("loadgen-").context("a scratch directory")?;
    crash_test(options, dir.path())
}

fn crash_test(options: &CrashOptions, dir: &Path) -> Result<()> {
    let image = match &options.image {
        Some(image) => image.clone(),
        None => {
            let image = dir.join("disk.raw");
            make_image(&image, IMAGE_BYTES).context("an image")?;
            image
        }
    };
    let (queues, depth) = match options.crash {
        CrashTest::Stores { batch } => (1, batch),
        _ => (options.queues, options.depth),
    };
    let harness = HarnessOptions {
        binary: options.binary.clone(),
        dir: dir.into(),
        image,
        direct: !options.buffered,
        threads: options.engine == Engine::Threads,
        queues,
        depth,
        sealed: !matches!(options.crash, CrashTest::Poison),
    };
    let mut harness = Harness::new(&harness)?;
    match &options.crash {
        CrashTest::Kill { kills } => kill(&mut harness, *kills, options.seed),
        CrashTest::Away { seconds } => away(&mut harness, *seconds, options.seed),
        CrashTest::Stale {
            fast,
            delay_ms,
            rounds,
            fence,
        } => {
            let plan = stale::Plan {
                fast: fast.clone(),
                delay: Duration::from_millis(*delay_ms),
                rounds: *rounds,
                fence: (*fence).into(),
            };
            stale(&mut harness, &plan)
        }
        CrashTest::Suppressed { rounds } => {
            let resumed = suppressed::run(&mut harness, *rounds, options.seed)?;
            println!("SEEN suppressed rounds={rounds} resumed={resumed}");
            Ok(())
        }
        CrashTest::Uncalled { rounds } => {
            let told = suppressed::uncalled(&mut harness, *rounds, options.seed)?;
            println!("SEEN uncalled rounds={rounds} told={told}");
            Ok(())
        }
        CrashTest::Poison => poisoned(&mut harness),
        CrashTest::Stores { .. } => stored(&mut harness),
    }
}

fn kill(harness: &mut Harness, kills: u32, seed: u64) -> Result<()> {
    let plan = killed::Plan {
        kills,
        lives: (Duration::from_millis(10), Duration::from_millis(500)),
        seed,
    };
    let outcome = killed::run(harness, &plan)?;
    let (pauses, drains) = (&outcome.pauses, &outcome.drains);
    println!("{}", outcome.checked);
    println!(
        "SEEN killed engine={} kills={} errors={} mismatches={} pause_p50_ms={} pause_p99_ms={} pause_max_ms={} drain_p50_ms={} drain_p99_ms={}",
        engine(harness),
        pauses.count(),
        outcome.checked.load.errors,
        outcome.checked.load.mismatches.len() + outcome.checked.wrong.len(),
        ms(pauses, 500),
        ms(pauses, 990),
        ms(pauses, 1000),
        ms(drains, 500),
        ms(drains, 990),
    );
    ensure!(pauses.count() == u64::from(kills), "not so many kills");
    ensure!(
        outcome.checked.is_good(),
        "the driver noticed more than pauses"
    );
    Ok(())
}

fn away(harness: &mut Harness, seconds: u64, seed: u64) -> Result<()> {
    let outcome = killed::away(harness, Duration::from_secs(seconds), seed)?;
    println!("{}", outcome.checked);
    println!(
        "SEEN away engine={} seconds={seconds} errors={} resumed_ms={:.1}",
        engine(harness),
        outcome.checked.load.errors,
        outcome.resumed.as_secs_f64() * 1e3
    );
    ensure!(
        outcome.checked.is_good(),
        "the driver noticed more than a pause"
    );
    ensure!(outcome.resumed <= Duration::from_secs(1), "it resumed late");
    Ok(())
}

fn stale(harness: &mut Harness, plan: &stale::Plan) -> Result<()> {
    let found = stale::run(harness, plan)?;
    println!(
        "SEEN stale engine={} fence={:?} rounds={} overwritten={} stale={} torn={} reused={} late={} drain_p50_ms={} drain_max_ms={}",
        engine(harness),
        plan.fence,
        plan.rounds,
        found.overwritten,
        found.stale,
        found.torn,
        found.reused,
        found.late,
        ms(&found.drains, 500),
        ms(&found.drains, 1000),
    );
    if found.stale + found.torn + found.late > 0 {
        bail!("a dead backend's requests came after newer ones");
    }
    Ok(())
}

fn poisoned(harness: &mut Harness) -> Result<()> {
    let outcome = poison::run(harness)?;
    println!(
        "SEEN poison engine={} deaths={} status={:?} others={} good={}",
        engine(harness),
        outcome.deaths,
        outcome.poison,
        outcome.others,
        outcome.good
    );
    ensure!(outcome.deaths <= 3, "it killed too many");
    ensure!(outcome.poison == Some(1), "it was not answered with IOERR");
    ensure!(outcome.good == outcome.others, "it took others with it");
    Ok(())
}

fn stored(harness: &mut Harness) -> Result<()> {
    let outcome = stores::run(harness)?;
    println!(
        "SEEN stores engine={} batch={} deaths={} requests={} wrong={} instructions={}",
        engine(harness),
        harness.options.depth,
        outcome.deaths,
        outcome.requests,
        outcome.wrong,
        outcome.steps,
    );
    // Fetching, answering and settling a request take three at the least.
    ensure!(
        outcome.deaths >= 3 * u32::from(harness.options.depth),
        "so few stores are not all of them"
    );
    ensure!(outcome.wrong == 0, "a write was lost");
    Ok(())
}

fn engine(harness: &Harness) -> &'static str {
    match harness.options.threads {
        true => "threads",
        false => "uring",
    }
}

#[allow(clippy::cast_precision_loss)] // a figure to read
fn ms(histogram: &Histogram, per_mille: u64) -> String {
    format!("{:.1}", histogram.at(per_mille) as f64 / 1e6)
}

impl From<FenceName> for Fence {
    fn from(name: FenceName) -> Self {
        match name {
            FenceName::Whole => Self::Whole,
            FenceName::Process => Self::Process,
            FenceName::Off => Self::Off,
        }
    }
}
