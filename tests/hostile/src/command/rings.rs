// SPDX-License-Identifier: Apache-2.0
//! A driver whose first queue is rubbish that changes while the backend reads it: descriptors, rings
//! and indirect tables are rewritten by two threads at any time. The backend's process goes on, and
//! so does its second queue, on which everything is in order.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use loadgen::connection::Connection;
use loadgen::disk::{Kind, Queue, QueueOptions, Request};
use loadgen::memory::Memory;
use loadgen::random::Random;
use loadgen::ring::RingOptions;
use vm_memory::{Bytes, GuestAddress};

use crate::process;

const PATIENCE: Duration = Duration::from_secs(20);
const MEMORY_LEN: u64 = 16 << 20;
const SIZE: u16 = 128;
/// VERSION_1, EVENT_IDX, INDIRECT_DESC, FLUSH, DISCARD, WRITE_ZEROES.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 9 | 1 << 13 | 1 << 14;
const QUEUE: QueueOptions = QueueOptions {
    ring: RingOptions {
        size: SIZE,
        event_idx: true,
        start: 0,
    },
    depth: 16,
    buffer_bytes: 4096,
    segments: 1,
    indirect: true,
};
/// A broken queue is one the backend does not look at any more: it is started anew so often.
const LIFE: Duration = Duration::from_millis(10);
/// What the backend may have of its own in the end.
const BACKEND_ANON_MAX_KIB: u64 = 32 << 10;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The backend's program.
    #[arg(long)]
    backend: PathBuf,
    /// A directory for its image and socket.
    #[arg(long)]
    dir: PathBuf,
    /// For how many seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Where the random numbers begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A backend that runs alone.
struct Backend(Child);

impl Drop for Backend {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Backend {
    fn start(options: &Options) -> Result<(Self, Connection)> {
        let (image, socket) = (options.dir.join("image"), options.dir.join("socket"));
        std::fs::File::create(&image)?.set_len(1 << 20)?;
        let child = Command::new(&options.backend)
            .arg("--socket-path")
            .arg(&socket)
            .args(["--seccomp", "on", "--disk"])
            .arg(format!("path={},queues=2,engine=threads", image.display()))
            .stderr(Stdio::null())
            .spawn()
            .context("the backend")?;
        let backend = Self(child);
        let connection = Connection::open(&socket, PATIENCE)?;
        Ok((backend, connection))
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let (mut backend, mut connection) = Backend::start(options)?;
    let mut memory = Memory::new(MEMORY_LEN)?;
    let hostile = Queue::new(&mut memory, QUEUE)?;
    let mut honest = Queue::new(&mut memory, QUEUE)?;
    let places = [hostile.place(), honest.place()];
    let stop = Arc::<AtomicBool>::default();
    let chaos = [0, 1].map(|number| {
        let chaos = Chaos {
            memory: memory.bytes(),
            place: hostile.place(),
            random: Random::new(2 * options.seed + number),
        };
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || chaos.run(&stop))
    });
    let (begun, mut lives, mut answered) = (Instant::now(), 0_u64, 0_u64);
    while begun.elapsed() < Duration::from_secs(options.seconds) {
        connection
            .start(FEATURES, &memory, &places)
            .context("start")?;
        let life = Instant::now();
        while life.elapsed() < LIFE {
            read(&memory, &mut honest)?;
            answered += 1;
        }
        for ring in 0..2 {
            connection.stop_ring(ring).context("stop")?;
        }
        lives += 1;
    }
    let anon_kib = process::anonymous_kib_of(backend.0.id())?;
    stop.store(true, Ordering::Relaxed);
    let mut rubbish = 0;
    for thread in chaos {
        rubbish += thread.join().map_err(|_| anyhow!("a thread ended early"))?;
    }
    drop(connection);
    let status = backend.0.wait()?;
    println!(
        "RESULT lives={lives} rubbish={rubbish} honest_requests={answered} backend_kib={anon_kib}"
    );
    ensure!(status.success(), "the backend ended with {status}");
    ensure!(
        anon_kib <= BACKEND_ANON_MAX_KIB,
        "the backend had {anon_kib} KiB"
    );
    Ok(())
}

/// One request on the queue that is in order.
fn read(memory: &Memory, queue: &mut Queue) -> Result<()> {
    let request = Request {
        kind: Kind::Read,
        sector: 0,
        len_bytes: 4096,
    };
    queue.prepare(memory, 0, request);
    queue.show()?;
    ensure!(
        queue.wait(Duration::ZERO, PATIENCE),
        "the honest queue stands still"
    );
    let completion = queue.reap()?.context("no completion")?;
    ensure!(completion.status == 0, "status {}", completion.status);
    Ok(())
}

struct Chaos {
    memory: Arc<device_backend::GuestMemory>,
    place: loadgen::connection::Place,
    random: Random,
}

impl Chaos {
    /// Goes on until it is to stop; how much it wrote.
    fn run(mut self, stop: &AtomicBool) -> u64 {
        let mut count = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..64 {
                self.spoil();
                count += 1;
            }
            let _ = self.place.fds.kick.write(1);
            std::thread::yield_now();
        }
        count
    }

    /// One thing of the queue becomes another.
    fn spoil(&mut self) {
        let [desc, avail, used] = self.place.addresses.map(|address| address.0);
        let random = &mut self.random;
        let index = random.below(u64::from(SIZE));
        match random.below(16) {
            0..9 => {
                // Half of the tables are the queue's own, half are indirect ones in its memory.
                let table = if random.below(2) == 0 {
                    desc
                } else {
                    0x40_0000
                };
                let descriptor = descriptor(random);
                self.write(table + 16 * index, &descriptor);
            }
            9..13 => {
                let head = random.number().to_be_bytes()[0] & 0x7f;
                self.write(avail + 4 + 2 * index, &[head, 0]);
            }
            13 | 14 => {
                // Ahead by little, mostly: further breaks the queue.
                let step = random.below(if index == 0 { 0x1_0000 } else { 8 });
                let at = GuestAddress(used + 2);
                let published: u16 = self.memory.read_obj(at).unwrap_or(0);
                let ahead = u16::try_from(step).unwrap_or(0);
                self.write(avail + 2, &published.wrapping_add(ahead).to_le_bytes());
            }
            _ => {
                let header = random.below(14).to_le_bytes();
                self.write(0x41_0000 + 16 * index, &header);
            }
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let _ = self.memory.write_slice(bytes, GuestAddress(at));
    }
}

/// A descriptor that is wrong in some way, or not.
fn descriptor(random: &mut Random) -> Vec<u8> {
    let address = match random.below(8) {
        0 => random.number(),
        1 => 0x40_0000,
        _ => 0x41_0000 + 16 * random.below(2048),
    };
    let len = match random.below(8) {
        0 => random.number() >> 32,
        1 => 16 * random.below(160),
        2 => 512 * random.below(16),
        3 => 1,
        _ => 16,
    };
    let (flags, next) = (random.below(8), random.below(u64::from(SIZE) + 1));
    let mut bytes = address.to_le_bytes().to_vec();
    bytes.extend(&len.to_le_bytes()[..4]);
    bytes.extend(&flags.to_le_bytes()[..2]);
    bytes.extend(&next.to_le_bytes()[..2]);
    bytes
}
