// SPDX-License-Identifier: Apache-2.0
//! Everything that may befall a disk's backend, done to the real process on purpose while a driver
//! watches: killed under load, away for long, dead with stale notification settings left behind, on
//! storage that finishes a dead process's requests late, crashed by a request, dead after any one store.
//!
//! Each module does one thing and says what came of it; the caller decides whether that is good.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use host::disk::Access;

use crate::connection::{Connection, ConnectionError, Place};
use crate::content::Mismatch;
use crate::disk::{Completion, Queue, QueueOptions, Request};
use crate::load::LoadError;
use crate::memory::{Memory, MemoryError};
use crate::ring::{DeviceFault, RingOptions};
use crate::supervised::{DiskSlot, Generation, SupervisedError};
use crate::verify::{self, Log, Verify, check_image};

pub mod killed;
pub mod poison;
pub mod stale;
mod stepper;
pub mod stores;
pub mod suppressed;

/// How long anything may take that no test is about.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// VERSION_1, EVENT_IDX, INDIRECT_DESC, FLUSH.
const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 9;
/// The entries of each queue.
const QUEUE_SIZE: u16 = 128;
/// The size of guest memory.
const MEMORY_BYTES: u64 = 64 << 20;
/// The length of each request's data.
const BLOCK_BYTES: u32 = 4096;

/// It came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CrashTestError {
    /// There is no backend.
    #[error(transparent)]
    Supervised(#[from] SupervisedError),
    /// The backend does not do what it should.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// There is no memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The load ended.
    #[error("the load")]
    Load(#[from] LoadError),
    /// The device broke the rules.
    #[error("the device broke the rules")]
    Fault(#[from] DeviceFault),
    /// A file, a process or an eventfd.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The fence did not fall.
    #[error("what a dead backend had begun does not end")]
    Unfenced,
    /// No request completed.
    #[error("nothing completed for {0:?}")]
    Quiet(Duration),
    /// A request failed.
    #[error("request {slot} failed with status {status}")]
    Status {
        /// Its slot.
        slot: u16,
        /// Its status.
        status: u8,
    },
    /// A thread panicked.
    #[error("the load panicked")]
    Panicked,
    /// A backend ended in another way than it should have.
    #[error("the backend ended with {0}")]
    Ended(std::process::ExitStatus),
    /// Something else came than should have.
    #[error("{0}")]
    Unexpected(&'static str),
}

/// What a harness is made of.
#[derive(Debug, Clone)]
pub struct HarnessOptions {
    /// The backend's program.
    pub binary: PathBuf,
    /// For a socket and a log.
    pub dir: PathBuf,
    /// The image; it is overwritten.
    pub image: PathBuf,
    /// Bypass the page cache.
    pub direct: bool,
    /// Threads instead of rings.
    pub threads: bool,
    /// The number of queues.
    pub queues: u16,
    /// How many requests each may have outstanding.
    pub depth: u16,
    /// Guest memory as that of a VM is.
    pub sealed: bool,
}

/// A disk, and a driver that outlives its backends.
#[derive(Debug)]
pub struct Harness {
    /// What it is made of.
    pub options: HarnessOptions,
    /// The supervisor's side.
    pub slot: DiskSlot,
    /// Guest memory.
    pub memory: Memory,
    /// The driver's queues; none while a load has them.
    pub queues: Vec<Queue>,
    places: Vec<Place>,
    socket: PathBuf,
}

/// What a verified load says in the end.
#[derive(Debug)]
pub struct Checked {
    /// What it saw.
    pub load: verify::Outcome,
    /// The blocks of the image that were looked at.
    pub blocks: u64,
    /// Those that hold something else than they must.
    pub wrong: Vec<Mismatch>,
}

impl Harness {
    /// A disk without a backend yet.
    pub fn new(options: &HarnessOptions) -> Result<Self, CrashTestError> {
        let socket = options.dir.join("blk.sock");
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        let access = Access {
            readonly: false,
            direct: options.direct,
            block_bytes: None,
        };
        let sizes = (options.queues, QUEUE_SIZE);
        let mut slot = DiskSlot::new(&options.binary, &options.image, access, &socket, sizes)?;
        slot.threads = options.threads;
        let mut memory = match options.sealed {
            true => Memory::new(MEMORY_BYTES)?,
            false => Memory::unsealed(MEMORY_BYTES)?,
        };
        let queue = QueueOptions {
            ring: RingOptions {
                size: QUEUE_SIZE,
                event_idx: true,
                start: 0,
            },
            depth: options.depth,
            buffer_bytes: BLOCK_BYTES,
            segments: 1,
            indirect: true,
        };
        let queues = (0..options.queues)
            .map(|_| Queue::new(&mut memory, queue))
            .collect::<Result<Vec<_>, _>>()?;
        let places = queues.iter().map(Queue::place).collect();
        Ok(Self {
            options: options.clone(),
            slot,
            memory,
            queues,
            places,
            socket,
        })
    }

    /// Starts a backend and connects to it. `after_crash`: see [`DiskSlot::start`].
    pub fn bring_up(&self, after_crash: bool) -> Result<(Generation, Connection), CrashTestError> {
        let generation = self.slot.start(after_crash)?;
        let mut connection = self.connect()?;
        connection.start(FEATURES, &self.memory, &self.places)?;
        Ok((generation, connection))
    }

    fn connect(&self) -> Result<Connection, CrashTestError> {
        Ok(Connection::open(&self.socket, PATIENCE)?)
    }

    /// Where every queue stands.
    fn used(&self) -> Vec<u16> {
        self.places.iter().map(Place::used_idx).collect()
    }

    /// Waits until anything has completed since the queues stood so.
    fn wait_beyond(&self, used: &[u16], patience: Duration) -> Result<(), CrashTestError> {
        let began = Instant::now();
        while self.used() == used {
            if began.elapsed() > patience {
                return Err(CrashTestError::Quiet(patience));
            }
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Offers a request in a slot of a queue and shows it to the device.
    fn send(&mut self, queue: usize, slot: u16, request: Request) -> Result<(), CrashTestError> {
        let queue = &mut self.queues[queue];
        queue.prepare(&self.memory, slot, request);
        Ok(queue.show()?)
    }

    /// Takes back `count` completions of a queue.
    fn take(&mut self, queue: usize, count: usize) -> Result<Vec<Completion>, CrashTestError> {
        let queue = &mut self.queues[queue];
        let mut done = Vec::new();
        while done.len() < count {
            if !queue.wait(Duration::ZERO, PATIENCE) {
                return Err(CrashTestError::Quiet(PATIENCE));
            }
            while let Some(completion) = queue.reap()? {
                done.push(completion);
            }
        }
        Ok(done)
    }

    /// The same, all of which must be good.
    fn take_good(&mut self, queue: usize, count: usize) -> Result<(), CrashTestError> {
        let bad = |done: &Completion| done.status != 0;
        match self.take(queue, count)?.into_iter().find(bad) {
            Some(Completion { slot, status, .. }) => Err(CrashTestError::Status { slot, status }),
            None => Ok(()),
        }
    }

    /// Lets `body` do what it likes to the backends while every queue has a verified load on it,
    /// whose requests may take as long as `patience`; then checks the image, too.
    pub fn under_load<T>(
        &mut self,
        seed: u64,
        patience: Duration,
        body: impl FnOnce(&Self) -> Result<T, CrashTestError>,
    ) -> Result<(T, Checked), CrashTestError> {
        let path = self.options.dir.join("acks.log");
        let log = Log::create(&path)?;
        let span = self.slot.capacity_bytes().min(64 << 20);
        let plan = Verify {
            block_bytes: BLOCK_BYTES,
            depth: self.options.depth,
            duration: Duration::MAX / 4,
            requests: 0,
            blocks: span / u64::from(BLOCK_BYTES),
            seed,
            patience,
            stop: std::sync::Arc::default(),
            gaps: None,
        };
        let mut queues = std::mem::take(&mut self.queues);
        let this: &Self = self;
        let (outcome, load) = thread::scope(|scope| {
            let load = scope.spawn(|| verify::run(&this.memory, &mut queues, &plan, &log));
            let outcome = body(this);
            plan.stop.store(true, Ordering::Relaxed);
            (outcome, load.join())
        });
        self.queues = queues;
        log.finish()?;
        let load = load.map_err(|_| CrashTestError::Panicked)??;
        let outcome = outcome?;
        let (blocks, wrong) = check_image(&path, &self.options.image, BLOCK_BYTES)?;
        let checked = Checked {
            load,
            blocks,
            wrong,
        };
        Ok((outcome, checked))
    }
}

impl Checked {
    /// Whether nothing was lost, torn, old or failed.
    pub fn is_good(&self) -> bool {
        self.load.errors == 0 && self.load.mismatches.is_empty() && self.wrong.is_empty()
    }
}

impl std::fmt::Display for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let load = &self.load;
        write!(
            f,
            "{} writes, {} reads, {} flushes, {} errors, {} mismatches; image: {} blocks, {} wrong",
            load.writes,
            load.reads,
            load.flushes,
            load.errors,
            load.mismatches.len(),
            self.blocks,
            self.wrong.len()
        )
    }
}

/// An empty image of a size.
pub fn make_image(path: &Path, len_bytes: u64) -> io::Result<()> {
    std::fs::File::create(path)?.set_len(len_bytes)
}
