// SPDX-License-Identifier: Apache-2.0
//! One thread that writes to and reads from a tap, and does nothing else.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use host::tap::offload;
use loadgen::histogram::Histogram;
use loadgen::random::Random;

use super::served::{RECEIVE_BYTES, SIZE, stride_bytes};
use super::traffic::{Host, outgoing, pause, percentiles, question};
use super::{Case, Sample};
use crate::report::precise;

const TAP: &str = "bare0";
/// Room for the longest frame and its header.
const FRAME_BYTES: usize = 68 << 10;

/// Measures one case.
pub(crate) fn measure(case: Case, duration: Duration) -> Result<Sample> {
    let tap = host::tap::open(TAP, 1)?.pop().context("no tap")?;
    host::tap::set_offload(tap.as_fd(), offload::CSUM | offload::TSO4 | offload::TSO6)?;
    let host = Host::new(TAP)?;
    match case {
        Case::Send(len) => send(&tap, &outgoing(len), stride_bytes(case), duration),
        Case::Receive(len) => receive(&tap, &host, len),
        Case::PingPong { .. } => ping_pong(&tap, duration),
    }
}

/// The time on the clock, and the processor time of this thread.
struct Stopwatch(Instant, Duration);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now(), thread_time())
    }

    fn stop(&self, frames: u64) -> Sample {
        let cpu = thread_time().saturating_sub(self.1);
        Sample {
            value: precise(frames) / self.0.elapsed().as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / precise(frames.max(1)),
            ..Sample::default()
        }
    }
}

fn thread_time() -> Duration {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    clock.now().map(Duration::from).unwrap_or_default()
}

fn send(tap: &OwnedFd, frame: &[u8], stride_bytes: u32, duration: Duration) -> Result<Sample> {
    // As many as a driver has, as far apart.
    let mut frames_ready = vec![0; usize::from(SIZE) * stride_bytes as usize];
    for place in frames_ready.chunks_exact_mut(stride_bytes as usize) {
        place[..frame.len()].copy_from_slice(frame);
    }
    let watch = Stopwatch::start();
    let mut frames = 0;
    while watch.0.elapsed() < duration {
        for place in frames_ready.chunks_exact(stride_bytes as usize) {
            nix::unistd::write(tap, &place[..frame.len()]).context("writing to the tap")?;
        }
        frames += u64::from(SIZE);
    }
    Ok(watch.stop(frames))
}

fn receive(tap: &OwnedFd, host: &Host, len: usize) -> Result<Sample> {
    // As much as a driver has, so that it is as far away.
    let mut room = vec![0; usize::from(SIZE) * RECEIVE_BYTES as usize];
    // What the kernel has said of itself.
    while nix::unistd::read(tap, &mut room).is_ok() {}
    let count = host.fill(len)? as u64;
    let watch = Stopwatch::start();
    let places = room.len() / FRAME_BYTES;
    for place in (0..places).cycle().take(usize::try_from(count)?) {
        let room = &mut room[place * FRAME_BYTES..(place + 1) * FRAME_BYTES];
        nix::unistd::read(tap, room).context("reading from the tap")?;
    }
    Ok(watch.stop(count))
}

fn ping_pong(tap: &OwnedFd, duration: Duration) -> Result<Sample> {
    let question = question();
    let mut room = vec![0; 4096];
    while nix::unistd::read(tap, &mut room).is_ok() {}
    let (mut latencies, mut random) = (Histogram::default(), Random::new(1));
    let began = Instant::now();
    while began.elapsed() < duration {
        pause(&mut random);
        let asked = Instant::now();
        nix::unistd::write(tap, &question).context("writing to the tap")?;
        while nix::unistd::read(tap, &mut room).is_err() {}
        latencies.add(u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    let (value, p99_us) = percentiles(&latencies);
    Ok(Sample {
        value,
        p99_us,
        ..Sample::default()
    })
}
