// SPDX-License-Identifier: Apache-2.0
//! What a disk is, as its backend is told.

use serde::{Deserialize, Serialize};

/// The unit of virtio's capacity and offsets.
pub const SECTOR_BYTES: u64 = 512;

/// What a disk is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Its size: a multiple of [`SECTOR_BYTES`], not zero.
    pub capacity_bytes: u64,
    /// The guest's logical block: a power of two of at least 512.
    pub logical_block_bytes: u32,
    /// What the guest is told can be written without reading first: the logical block size or a power
    /// of two above it.
    pub physical_block_bytes: u32,
    /// What offsets and lengths of I/O on the image must be a multiple of, if that is more than the
    /// logical block; 0 is how an older supervisor says that it is not.
    #[serde(default)]
    pub storage_block_bytes: u32,
    /// What addresses of buffers must be a multiple of, for direct I/O; 1 without it.
    pub memory_align_bytes: u32,
    /// Whether it is a block device.
    pub block_device: bool,
}

impl Geometry {
    /// What offsets and lengths of I/O on the image must be a multiple of.
    pub fn io_block_bytes(&self) -> u32 {
        self.storage_block_bytes.max(self.logical_block_bytes)
    }

    /// Whether the guest may ask for a part of a block that can only be read and written whole.
    pub fn has_partial_blocks(&self) -> bool {
        self.io_block_bytes() > self.logical_block_bytes
    }
}
