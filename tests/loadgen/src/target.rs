// SPDX-License-Identifier: Apache-2.0
//! How to reach a backend, and what the driver's queues are to be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use loadgen::connection::Connection;
use loadgen::disk::{Queue, QueueOptions};
use loadgen::memory::Memory;
use loadgen::ring::RingOptions;

/// Feature bits that a current Linux driver takes where they are offered: VERSION_1; SIZE_MAX,
/// SEG_MAX, RO, BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD, WRITE_ZEROES.
const DRIVER_FEATURES: u64 =
    1 << 32 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 14;
const EVENT_IDX: u64 = 1 << 29;
const INDIRECT_DESC: u64 = 1 << 28;

/// How to reach a backend.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// The backend's socket.
    #[arg(long)]
    socket: PathBuf,
    /// The number of queues.
    #[arg(long, default_value_t = 1)]
    queues: u16,
    /// The entries of each queue.
    #[arg(long, default_value_t = 128)]
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

/// A backend, its driver attached.
pub(crate) struct Attached {
    pub(crate) memory: Memory,
    pub(crate) queues: Vec<Queue>,
    pub(crate) capacity_bytes: u64,
    pub(crate) block_bytes: u32,
    /// The feature bits in use.
    pub(crate) features: u64,
    _connection: Connection,
}

impl Target {
    /// A target with everything else at its default.
    pub(crate) fn of(socket: &Path, queues: u16) -> Self {
        Self {
            socket: socket.into(),
            queues,
            queue_size: 128,
            segments: 1,
            no_indirect: false,
            no_event_idx: false,
        }
    }

    /// Connects, and starts queues with room for `depth` requests of `buffer_bytes`.
    pub(crate) fn start(&self, depth: u16, buffer_bytes: u32) -> Result<Attached> {
        let mut connection = Connection::open(&self.socket, Duration::from_secs(10))?;
        let config = connection.config()?;
        let features = connection.offered() & self.wanted();
        let buffers = u64::from(buffer_bytes) * u64::from(depth) * u64::from(self.queues);
        let mut memory = Memory::new((buffers + (8 << 20)).next_multiple_of(4 << 20))?;
        let heads = if features & INDIRECT_DESC == 0 {
            depth * (self.segments + 2)
        } else {
            depth
        };
        ensure!(
            heads <= self.queue_size,
            "the queue is too small for this depth"
        );
        let options = QueueOptions {
            ring: RingOptions {
                size: self.queue_size,
                event_idx: features & EVENT_IDX != 0,
                start: 0,
            },
            depth,
            buffer_bytes,
            segments: self.segments,
            indirect: features & INDIRECT_DESC != 0,
        };
        let queues = (0..self.queues)
            .map(|_| Queue::new(&mut memory, options))
            .collect::<Result<Vec<_>, _>>()?;
        let places: Vec<_> = queues.iter().map(Queue::place).collect();
        connection.start(features, &memory, &places)?;
        Ok(Attached {
            memory,
            queues,
            capacity_bytes: config.capacity_bytes,
            block_bytes: config.block_bytes,
            features,
            _connection: connection,
        })
    }

    fn wanted(&self) -> u64 {
        let event_idx = if self.no_event_idx { 0 } else { EVENT_IDX };
        let indirect = if self.no_indirect { 0 } else { INDIRECT_DESC };
        DRIVER_FEATURES | event_idx | indirect
    }
}
