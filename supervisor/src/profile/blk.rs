// SPDX-License-Identifier: Apache-2.0
//! The jail of a disk's backend.

use ipc::record::Geometry;
use spec::Disk;

use super::{LOG_BYTES_MAX, Profile};

/// What it is started with, and what it opens beside its queues.
const DESCRIPTORS: u64 = 64;
/// A ring, a kick, a call, their copies, and what a worker waits with.
const DESCRIPTORS_PER_QUEUE: u64 = 16;

/// The backend of the disk at place `index` in the spec.
pub(crate) fn profile(index: u8, disk: &Disk, geometry: &Geometry) -> Profile {
    Profile {
        user: 2 + index,
        descriptors_max: DESCRIPTORS + u64::from(disk.queues) * DESCRIPTORS_PER_QUEUE,
        // A write beyond this is EFBIG, even inside an existing file.
        file_bytes_max: LOG_BYTES_MAX.max(geometry.capacity_bytes),
        oom_score_adj: 400,
    }
}
