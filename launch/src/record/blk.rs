// SPDX-License-Identifier: Apache-2.0
//! What a disk backend is to serve.

use serde::{Deserialize, Serialize};

use super::{BackendRecord, Record};
use crate::disk::Geometry;
use crate::ring::RingParams;
use crate::seccomp::Mode;

/// What a disk backend is to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkRecord {
    /// [`VERSION`](super::VERSION) of the build that wrote it.
    pub version: u32,
    /// The VM's name, for the log.
    pub vm_id: String,
    /// The disk's name, for the log.
    pub device_id: String,
    /// The number of queues, 1 to [`crate::fd::blk::QUEUES_MAX`].
    pub queues: u16,
    /// The most entries a queue may have: a power of two from 16 to 1024.
    pub queue_size: u16,
    /// What the guest sees as the disk's serial number, at most 20 bytes.
    pub serial: String,
    /// Whether writes are refused.
    pub readonly: bool,
    /// What the disk is; the backend cannot ask.
    pub geometry: Geometry,
    /// How it does its I/O.
    pub engine: BlkEngine,
    /// How long a worker looks for work before it sleeps, in µs; 0 sleeps at once.
    pub poll_us: u32,
    /// Whether the last generation died of itself, so that what it had in flight is suspect.
    pub after_crash: bool,
    /// What a system call outside the filter does.
    pub seccomp: Mode,
}

/// How a disk backend does its I/O.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlkEngine {
    /// The rings from [`crate::fd::blk::RING`] on, one for each queue.
    Uring(Vec<RingParams>),
    /// Threads, and the image at [`crate::fd::blk::DISK`].
    Threads,
}

impl Record for BlkRecord {}

impl BackendRecord for BlkRecord {
    fn vm_id(&self) -> &str {
        &self.vm_id
    }

    fn device_id(&self) -> &str {
        &self.device_id
    }
}
