// SPDX-License-Identifier: Apache-2.0
//! Walking a descriptor chain (virtio 1.2, §2.7.5): copies each descriptor once and returns a list
//! of guest buffers, so that the tables are not read again.
//!
//! Runs on the worker thread that owns the queue.

use std::sync::Arc;

use vm_memory::GuestAddress;

use crate::GuestMemory;
use crate::ring::{Descriptor, Ring};
use crate::shared_mem::{SharedMem, SharedMemError};

/// VIRTQ_DESC_F_NEXT
const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE
const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT
const INDIRECT: u16 = 4;
/// The length of a descriptor in bytes.
const DESCRIPTOR_BYTES: u32 = 16;

/// How a chain violates the specification.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A descriptor's next index is outside its table.
    #[error("descriptor {0} is outside the table")]
    Index(u16),
    /// The chain has more descriptors than the queue, so it is a loop or too long.
    #[error("the chain is longer than the queue")]
    TooLong,
    /// The buffers have more than 2^32 bytes in total.
    #[error("the chain has more than 4 GiB")]
    TooLarge,
    /// A device-readable buffer follows a device-writable one.
    #[error("a readable buffer follows a writable one")]
    Order,
    /// An indirect descriptor, and the feature was not negotiated.
    #[error("an indirect descriptor was not negotiated")]
    NotNegotiated,
    /// An indirect descriptor inside an indirect table.
    #[error("an indirect table refers to another")]
    Nested,
    /// An indirect descriptor that has a next one.
    #[error("an indirect descriptor has a next one")]
    IndirectNext,
    /// An indirect table's length is zero, not a multiple of 16, or longer than the queue.
    #[error("an indirect table cannot have {0} bytes")]
    TableLength(u32),
    /// An indirect table is outside guest memory.
    #[error("an indirect table is outside guest memory")]
    TableOutside(#[source] SharedMemError),
    /// An indirect table is not aligned to 8 bytes.
    #[error("an indirect table at {0:#x} is not aligned")]
    TableMisaligned(u64),
}

/// A guest buffer. Its address is not checked yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Its guest-physical address.
    pub address: GuestAddress,
    /// Its length, not zero.
    pub len_bytes: u32,
}

/// The buffers of one chain, in order. Reused from one chain to the next.
#[derive(Debug, Default)]
pub struct Chain {
    /// The device-readable buffers.
    pub readable: Vec<Buffer>,
    /// The device-writable buffers.
    pub writable: Vec<Buffer>,
    total_bytes: u32,
}

impl Chain {
    /// Replaces the buffers with those of the chain at `head`.
    pub fn walk(
        &mut self,
        ring: &Ring,
        memory: &Arc<GuestMemory>,
        head: u16,
        indirect: bool,
    ) -> Result<(), ChainError> {
        self.readable.clear();
        self.writable.clear();
        self.total_bytes = 0;
        let mut left = ring.size();
        let mut index = head;
        loop {
            let descriptor = read(ring.descriptors(), ring.size(), index)?;
            left = left.checked_sub(1).ok_or(ChainError::TooLong)?;
            if descriptor.flags & INDIRECT != 0 {
                return self.walk_table(ring, memory, descriptor, indirect, left);
            }
            self.push(descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// Collects the buffers of an indirect table, the last element of a chain. `left` more
    /// descriptors are allowed.
    fn walk_table(
        &mut self,
        ring: &Ring,
        memory: &Arc<GuestMemory>,
        descriptor: Descriptor,
        negotiated: bool,
        left: u16,
    ) -> Result<(), ChainError> {
        if !negotiated {
            return Err(ChainError::NotNegotiated);
        }
        // "A driver MUST NOT set both VIRTQ_DESC_F_INDIRECT and VIRTQ_DESC_F_NEXT in flags."
        // (§2.7.5.3.1) The write flag of such a descriptor is ignored (§2.7.5.3.2).
        if descriptor.flags & NEXT != 0 {
            return Err(ChainError::IndirectNext);
        }
        let len_bytes = descriptor.len_bytes;
        let entries = u16::try_from(len_bytes / DESCRIPTOR_BYTES).unwrap_or(u16::MAX);
        if !len_bytes.is_multiple_of(DESCRIPTOR_BYTES) || entries == 0 || entries > ring.size() {
            return Err(ChainError::TableLength(len_bytes));
        }
        let address = GuestAddress(descriptor.address);
        let table = SharedMem::of_guest(memory, address, usize::from(entries) * 16)
            .map_err(ChainError::TableOutside)?;
        if !table.is_aligned(8) {
            return Err(ChainError::TableMisaligned(address.0));
        }
        let mut left = left + 1;
        let mut index = 0;
        loop {
            let descriptor = read(&table, entries, index)?;
            left = left.checked_sub(1).ok_or(ChainError::TooLong)?;
            // "The driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag within an indirect
            // descriptor" (§2.7.5.3.1)
            if descriptor.flags & INDIRECT != 0 {
                return Err(ChainError::Nested);
            }
            self.push(descriptor)?;
            if descriptor.flags & NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    fn push(&mut self, descriptor: Descriptor) -> Result<(), ChainError> {
        // "The driver MUST NOT add a descriptor chain longer than 2^32 bytes in total" (§2.7.5)
        let total = self.total_bytes.checked_add(descriptor.len_bytes);
        self.total_bytes = total.ok_or(ChainError::TooLarge)?;
        let buffer = Buffer {
            address: GuestAddress(descriptor.address),
            len_bytes: descriptor.len_bytes,
        };
        let write = descriptor.flags & WRITE != 0;
        // "The driver MUST place any device-writable descriptor elements after any device-readable
        // descriptor elements." (§2.7.4.2)
        if !write && !self.writable.is_empty() {
            return Err(ChainError::Order);
        }
        match (buffer.len_bytes, write) {
            (0, _) => {}
            (_, true) => self.writable.push(buffer),
            (_, false) => self.readable.push(buffer),
        }
        Ok(())
    }
}

fn read(table: &SharedMem, entries: u16, index: u16) -> Result<Descriptor, ChainError> {
    if index >= entries {
        return Err(ChainError::Index(index));
    }
    Ok(Descriptor::read(table, index))
}

#[cfg(test)]
mod tests;
