// SPDX-License-Identifier: Apache-2.0
//! The in-flight region of a device: the layout of the memfd that all generations of its backend
//! inherit. Its content is private to those generations (vhost-user, "Inflight I/O tracking", split
//! virtqueues).
//!
//! All zeroes means that nothing was ever in flight: the supervisor creates it so, and the vmm
//! zeroes it when it resets the device.

use std::os::fd::OwnedFd;

use crate::memfd::{self, Backing, MemfdError};

/// The alignment of each queue's part.
const ALIGN_BYTES: usize = 64;
/// The header of a queue's part, and the entry of each descriptor.
const ENTRY_BYTES: usize = 16;

/// The length of one queue's part in bytes.
pub fn queue_bytes(queue_size: u16) -> usize {
    (ENTRY_BYTES + ENTRY_BYTES * usize::from(queue_size)).next_multiple_of(ALIGN_BYTES)
}

/// The length in bytes of the region of a device with `queues` queues of at most `queue_size`
/// entries.
pub fn region_bytes(queues: u16, queue_size: u16) -> usize {
    usize::from(queues) * queue_bytes(queue_size)
}

/// Makes the region of a device.
pub fn create(queues: u16, queue_size: u16) -> Result<OwnedFd, MemfdError> {
    let len_bytes = region_bytes(queues, queue_size) as u64;
    memfd::shared("inflight", len_bytes, Backing::Shmem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_is_aligned_and_has_room_for_every_descriptor() {
        assert_eq!(queue_bytes(16), 320);
        assert_eq!(queue_bytes(1024), 16448);
        assert_eq!(region_bytes(16, 256), 16 * 4160);
    }
}
