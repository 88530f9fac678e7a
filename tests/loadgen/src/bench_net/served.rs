// SPDX-License-Identifier: Apache-2.0
//! Our backend on a tap, and a driver in this process.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use loadgen::connection::Connection;
use loadgen::cpu;
use loadgen::histogram::Histogram;
use loadgen::memory::Memory;
use loadgen::net::{Direction, Queue};
use loadgen::random::Random;
use loadgen::ring::RingOptions;

use super::traffic::{Host, outgoing, pause, percentiles, question};
use super::{Case, LONG, Sample};
use crate::bench::machine;
use crate::report::precise;

const TAP: &str = "served0";
const PATIENCE: Duration = Duration::from_secs(10);
/// The entries of a queue.
pub(crate) const SIZE: u16 = 256;
/// As a Linux driver's: a page for what is received.
pub(crate) const RECEIVE_BYTES: u32 = 4096;
/// Linux takes what is sent from slabs: short frames are some to a page, long ones have pages of
/// their own.
pub(crate) const SEND_STRIDES_BYTES: [u32; 3] = [1 << 10, 2 << 10, 68 << 10];
/// VERSION_1, EVENT_IDX, MRG_RXBUF, CSUM, GUEST_CSUM, TSO of both kinds in both directions.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 15 | 0b11 | 0b11 << 7 | 0b11 << 11;

/// A backend that ends with its owner.
struct Backend {
    child: Child,
    host: Host,
    connection: Connection,
    memory: Memory,
    receive: Queue,
    transmit: Queue,
}

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Backend {
    fn start(program: &Path, case: Case) -> Result<Self> {
        let socket = std::env::temp_dir().join(format!("bench-net-{}.sock", std::process::id()));
        let child = Command::new(program)
            .arg("--socket-path")
            .arg(&socket)
            .args(["--tap", TAP])
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let connection = Connection::open(&socket, PATIENCE)?;
        let _ = std::fs::remove_file(&socket);
        let mut memory = Memory::new(32 << 20)?;
        let options = RingOptions {
            size: SIZE,
            event_idx: true,
            start: 0,
        };
        Ok(Self {
            receive: Queue::new(&mut memory, options, RECEIVE_BYTES, Direction::Receive)?,
            transmit: Queue::new(
                &mut memory,
                options,
                stride_bytes(case),
                Direction::Transmit,
            )?,
            child,
            host: Host::new(TAP)?,
            connection,
            memory,
        })
    }

    fn connect(&mut self) -> Result<()> {
        let places = [self.receive.place(), self.transmit.place()];
        Ok(self.connection.start(FEATURES, &self.memory, &places)?)
    }

    fn per_second(&self, frames: u64, elapsed: Duration, cpu_us: f64) -> Sample {
        Sample {
            value: precise(frames) / elapsed.as_secs_f64(),
            cpu_us: cpu_us / precise(frames.max(1)),
            rss_kib: machine::rss_kib(self.child.id()),
            ..Sample::default()
        }
    }
}

/// The processor time of all its threads.
fn cpu_us(process: &Child) -> f64 {
    cpu::of_process(process.id()).as_secs_f64() * 1e6
}

/// How far apart the frames that are sent are in memory.
pub(crate) fn stride_bytes(case: Case) -> u32 {
    let len = case.bytes() + loadgen::net::HEADER_BYTES;
    let fits = |stride: &u32| *stride as usize >= len;
    SEND_STRIDES_BYTES
        .into_iter()
        .find(fits)
        .unwrap_or(SEND_STRIDES_BYTES[2])
}

/// Measures one case.
pub(crate) fn measure(program: &Path, case: Case, duration: Duration) -> Result<Sample> {
    let mut backend = Backend::start(program, case)?;
    match case {
        Case::Send(len) => send(&mut backend, len, duration),
        Case::Receive(len) => receive(&mut backend, len),
        Case::PingPong { halting } => ping_pong(&mut backend, halting, duration),
    }
}

fn send(backend: &mut Backend, len: usize, duration: Duration) -> Result<Sample> {
    backend.connect()?;
    let frame = outgoing(len);
    let len_bytes = u32::try_from(frame.len())?;
    backend.transmit.fill(&frame);
    let mut frames = 0;
    let mut counted = (Instant::now(), 0.0);
    let warm = duration / 5;
    let began = Instant::now();
    let mut warming = true;
    while began.elapsed() < warm + duration {
        let queue = &mut backend.transmit;
        queue.offer_filled(usize::from(SIZE), len_bytes);
        queue.show();
        // As a driver does that has more to send: a quarter of the queue at a time.
        while queue.ring.outstanding() > usize::from(SIZE) * 3 / 4 {
            if !queue.wait(Duration::from_micros(50), PATIENCE) {
                ensure!(queue.ring.has_used(), "the backend sends nothing");
            }
            frames += queue.reap()? as u64;
        }
        if warming && began.elapsed() > warm {
            (warming, frames) = (false, 0);
            counted = (Instant::now(), cpu_us(&backend.child));
        }
    }
    let elapsed = counted.0.elapsed();
    let cpu_us = cpu_us(&backend.child) - counted.1;
    Ok(backend.per_second(frames, elapsed, cpu_us))
}

fn receive(backend: &mut Backend, len: usize) -> Result<Sample> {
    // The kernel segments what is sent to a tap before anybody has taken segmentation upon himself.
    backend.connect()?;
    let count = backend.host.fill(len)?;
    let header_and_frame = len + loadgen::net::HEADER_BYTES;
    let chains = header_and_frame.div_ceil(RECEIVE_BYTES as usize);
    // All that fits into the driver's buffers has been read by now; the rest waits in the tap.
    ensure!(
        backend.receive.wait(Duration::ZERO, PATIENCE),
        "the backend receives nothing"
    );
    let early = backend.receive.recycle()?;
    let cpu_before = cpu_us(&backend.child);
    let began = Instant::now();
    backend.receive.show();
    let mut taken = early;
    while taken < count * chains {
        let queue = &mut backend.receive;
        ensure!(
            queue.wait(Duration::from_micros(50), PATIENCE),
            "the backend receives nothing"
        );
        taken += queue.recycle()?;
        queue.show();
    }
    let elapsed = began.elapsed();
    let cpu_us = cpu_us(&backend.child) - cpu_before;
    let frames = count - early / chains;
    Ok(backend.per_second(frames as u64, elapsed, cpu_us))
}

fn ping_pong(backend: &mut Backend, halting: bool, duration: Duration) -> Result<Sample> {
    backend.connect()?;
    let question = question();
    let spin = if halting { Duration::ZERO } else { PATIENCE };
    let (mut latencies, mut random) = (Histogram::default(), Random::new(1));
    // What the kernel has said of itself.
    std::thread::sleep(Duration::from_millis(20));
    backend.receive.recycle()?;
    backend.receive.show();
    let began = Instant::now();
    while began.elapsed() < duration {
        pause(&mut random);
        let asked = Instant::now();
        backend.transmit.reap()?;
        ensure!(backend.transmit.offer(&question), "no buffer is free");
        backend.transmit.show();
        ensure!(backend.receive.wait(spin, PATIENCE), "no answer");
        latencies.add(u64::try_from(asked.elapsed().as_nanos())?);
        backend.receive.recycle()?;
        backend.receive.show();
    }
    let (value, p99_us) = percentiles(&latencies);
    Ok(Sample {
        value,
        p99_us,
        rss_kib: machine::rss_kib(backend.child.id()),
        ..Sample::default()
    })
}

const _: () = assert!(LONG + loadgen::net::HEADER_BYTES <= SEND_STRIDES_BYTES[2] as usize);
