// SPDX-License-Identifier: Apache-2.0
//! The launch record of a disk backend.

use serde::{Deserialize, Serialize};

use super::{BackendRecord, Geometry, READABLE_SINCE, Record};
use crate::log_format::LogFormat;
use crate::seccomp::Mode;

/// The launch record of a disk backend.
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
    /// The disk's serial number, at most 20 bytes.
    pub serial: String,
    /// Whether the backend refuses writes.
    pub readonly: bool,
    /// The image's geometry; the backend cannot query it.
    pub geometry: Geometry,
    /// How it does its I/O.
    pub engine: BlkEngine,
    /// How long a worker polls before it sleeps, in µs; 0 does not poll.
    pub poll_us: u32,
    /// Whether the previous generation died of itself, so that a request it had in flight may be
    /// the cause.
    pub after_crash: bool,
    /// Whether flushes wait for [`ToBackend::Synced`](crate::control::ToBackend::Synced). Absent
    /// from the records of older supervisors, which never send it.
    #[serde(default)]
    pub awaits_sync: bool,
    /// What happens on a system call outside the filter.
    pub seccomp: Mode,
    /// How it writes to the log.
    #[serde(default)]
    pub log_format: LogFormat,
}

/// How a disk backend does its I/O.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlkEngine {
    /// The io_urings from [`crate::fd::blk::RING`] on, one for each queue.
    Uring(Vec<RingParams>),
    /// Threads, on the image at [`crate::fd::blk::DISK`].
    Threads,
}

/// The layout of an io_uring, as the kernel reported it: the words of `struct io_uring_params`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingParams(
    /// The words.
    pub [u32; 30],
);

/// The version since which a backend does read-modify-write for parts of a storage block.
const PARTIAL_BLOCKS_SINCE: u32 = 2;

impl Record for BlkRecord {
    fn readable_since(&self) -> u32 {
        match self.geometry.has_partial_blocks() {
            true => PARTIAL_BLOCKS_SINCE,
            false => READABLE_SINCE,
        }
    }
}

impl BackendRecord for BlkRecord {
    fn vm_id(&self) -> &str {
        &self.vm_id
    }

    fn device_id(&self) -> &str {
        &self.device_id
    }

    fn log_format(&self) -> LogFormat {
        self.log_format
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::VERSION;

    fn record(storage_block_bytes: u32) -> BlkRecord {
        BlkRecord {
            version: VERSION,
            vm_id: "a".into(),
            device_id: "disk0".into(),
            queues: 1,
            queue_size: 128,
            serial: String::new(),
            readonly: false,
            geometry: Geometry {
                capacity_bytes: 1 << 20,
                logical_block_bytes: 512,
                physical_block_bytes: 4096,
                storage_block_bytes,
                memory_align_bytes: 512,
                block_device: false,
            },
            engine: BlkEngine::Threads,
            poll_us: 0,
            after_crash: false,
            awaits_sync: false,
            seccomp: Mode::Kill,
            log_format: LogFormat::Text,
        }
    }

    /// An older build ignores the storage's blocks, and its requests for parts of them would fail.
    #[test]
    fn record_of_a_disk_with_partial_blocks_is_not_for_older_builds() {
        assert_eq!(record(512).readable_since(), READABLE_SINCE);
        assert_eq!(record(4096).readable_since(), 2);
    }

    #[test]
    fn record_of_an_older_build_has_no_partial_blocks() {
        let mut value = serde_json::to_value(record(4096)).unwrap();
        let geometry = value["geometry"].as_object_mut().unwrap();
        geometry.remove("storage_block_bytes");
        geometry.insert("logical_block_bytes".into(), 4096.into());
        let read: BlkRecord = serde_json::from_value(value).unwrap();
        assert!(!read.geometry.has_partial_blocks());
        assert_eq!(read.geometry.io_block_bytes(), 4096);
    }
}
