// SPDX-License-Identifier: Apache-2.0
//! The geometry of a disk.

use serde::{Deserialize, Serialize};

/// The unit of virtio's capacity and offsets.
pub const SECTOR_BYTES: u64 = 512;

/// The size, block sizes and alignment of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Its size: a multiple of [`SECTOR_BYTES`], not zero.
    pub capacity_bytes: u64,
    /// The guest's logical block: a power of two of at least 512.
    pub logical_block_bytes: u32,
    /// The guest's physical block, which can be written without reading it first: the logical block
    /// size or a power of two above it.
    pub physical_block_bytes: u32,
    /// What offsets and lengths of I/O on the image must be a multiple of, if that is more than the
    /// logical block; 0 in the records of older supervisors.
    #[serde(default)]
    pub storage_block_bytes: u32,
    /// What buffer addresses must be a multiple of for direct I/O; 1 without it.
    pub memory_align_bytes: u32,
    /// Whether the image is a block device.
    pub block_device: bool,
}

impl Geometry {
    /// What offsets and lengths of I/O on the image must be a multiple of.
    pub fn io_block_bytes(&self) -> u32 {
        self.storage_block_bytes.max(self.logical_block_bytes)
    }

    /// Whether a request may cover a part of a storage block, which needs read-modify-write.
    pub fn has_partial_blocks(&self) -> bool {
        self.io_block_bytes() > self.logical_block_bytes
    }
}
