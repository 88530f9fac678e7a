// SPDX-License-Identifier: Apache-2.0
//! Guest memory as a backend maps it, and the few fields that the frontend itself reads.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use vhost::vhost_user::message::{VhostUserMemory, VhostUserMemoryRegion};
use vm_memory::{
    Address, ByteValued, Bytes, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use crate::virtio::queue::QueueLayout;

/// The most that every backend takes in one message (vhost-user specification, SET_MEM_TABLE).
const REGIONS_MAX: usize = 8;

/// Why guest memory cannot be shared with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// It has too many regions.
    #[error("guest memory has {0} regions, at most {REGIONS_MAX} can be shared")]
    Regions(usize),
    /// A region has no file for a backend to map.
    #[error("the guest memory at {0:#x} cannot be shared")]
    Private(u64),
}

/// Guest memory, with its description for backends.
#[derive(Debug, Clone)]
pub(super) struct SharedMemory {
    memory: GuestMemoryMmap<()>,
    table: Vec<u8>,
    fds: Vec<RawFd>,
}

impl SharedMemory {
    /// Describes guest memory for backends. As address in the frontend's address space it uses the
    /// guest-physical one: no backend needs the real one, which would reveal the vmm's memory
    /// layout.
    pub(super) fn new(memory: GuestMemoryMmap<()>) -> Result<Self, MemoryError> {
        let count = memory.num_regions();
        let number = u32::try_from(count).unwrap_or(u32::MAX);
        if !(1..=REGIONS_MAX).contains(&count) {
            return Err(MemoryError::Regions(count));
        }
        let mut table = VhostUserMemory::new(number).as_slice().to_vec();
        let mut fds = Vec::new();
        for region in memory.iter() {
            let base = region.start_addr().raw_value();
            let file = region.file_offset().ok_or(MemoryError::Private(base))?;
            let entry = VhostUserMemoryRegion::new(base, region.len(), base, file.start());
            table.extend(entry.as_slice());
            fds.push(file.file().as_raw_fd());
        }
        Ok(Self { memory, table, fds })
    }

    /// The body of SET_MEM_TABLE.
    pub(super) fn table(&self) -> &[u8] {
        &self.table
    }

    /// The descriptors for SET_MEM_TABLE. They stay open as long as `self` lives.
    pub(super) fn fds(&self) -> &[RawFd] {
        &self.fds
    }

    /// Whether all of a queue is in guest memory.
    pub(super) fn holds(&self, layout: &QueueLayout) -> bool {
        let inside = |&(base, len): &(_, u64)| {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            self.memory.check_range(base, len)
        };
        layout.parts().iter().all(inside)
    }

    /// The device's used index, if the queue is in guest memory.
    pub(super) fn used_index(&self, layout: &QueueLayout) -> Option<u16> {
        let index = self.memory.load(layout.used_index(), Ordering::Acquire);
        index.ok().map(u16::from_le)
    }

    /// The driver's available index, if the queue is in guest memory.
    pub(super) fn avail_index(&self, layout: &QueueLayout) -> Option<u16> {
        let index = self.memory.load(layout.avail_index(), Ordering::Acquire);
        index.ok().map(u16::from_le)
    }
}
