// SPDX-License-Identifier: Apache-2.0
//! The commands that run inside a guest, or are the other end of what runs there.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use loadgen::{file, stream};

#[derive(Debug, Args)]
pub(crate) struct FileOptions {
    /// The file or block device. It is overwritten.
    path: PathBuf,
    /// For how many seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many blocks of 4 KiB.
    #[arg(long, default_value_t = 2048)]
    blocks: u64,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ServeOptions {
    /// The address to listen at.
    address: String,
    /// For how many seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// What the stream is made of.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct StreamOptions {
    /// Where it is served.
    address: String,
    /// What the stream is made of.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Send it back.
    #[arg(long)]
    echo: bool,
}

pub(crate) fn file(options: &FileOptions) -> Result<()> {
    let duration = Duration::from_secs_f64(options.seconds);
    let outcome = file::run(&options.path, options.blocks, duration, options.seed)?;
    println!(
        "FILE writes={} reads={} flushes={} errors={} mismatches={} pauses_ms={}",
        outcome.writes,
        outcome.reads,
        outcome.flushes,
        outcome.errors,
        outcome.mismatches.len(),
        outcome.pauses
    );
    if let Some(first) = outcome.mismatches.first() {
        bail!("{first}");
    }
    match outcome.error {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

pub(crate) fn serve(options: &ServeOptions) -> Result<()> {
    let listener = TcpListener::bind(&options.address)?;
    let duration = Duration::from_secs_f64(options.seconds);
    let (bytes, sum) = stream::serve(&listener, duration, options.seed)?;
    println!("SERVED bytes={bytes} sum={sum:016x}");
    Ok(())
}

pub(crate) fn stream(options: &StreamOptions) -> Result<()> {
    let outcome = stream::receive(&options.address, options.seed, options.echo)?;
    println!(
        "STREAM bytes={} wrong={} sum={:016x} pauses_ms={}",
        outcome.bytes, outcome.wrong, outcome.sum, outcome.pauses
    );
    ensure!(outcome.wrong == 0, "{} bytes were wrong", outcome.wrong);
    Ok(())
}
