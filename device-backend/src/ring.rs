// SPDX-License-Identifier: Apache-2.0
//! The device's half of a split virtqueue (virtio 1.2, §2.7): takes available heads, publishes used
//! elements in batches, and decides whether to call the driver.
//!
//! Runs on the worker thread that owns the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, fence};

use vm_memory::GuestAddress;

use crate::GuestMemory;
use crate::shared_mem::{SharedMem, SharedMemError};

/// VIRTQ_AVAIL_F_NO_INTERRUPT, in the flags of the available ring.
const NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY, in the flags of the used ring.
const NO_NOTIFY: u16 = 1;
/// The length of flags and index at the start of both rings.
const HEADER_BYTES: usize = 4;

/// The addresses and size of a queue, as the driver has set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The number of descriptors.
    pub size: u16,
    /// The descriptor table.
    pub desc: GuestAddress,
    /// The available ring.
    pub avail: GuestAddress,
    /// The used ring.
    pub used: GuestAddress,
    /// Whether VIRTIO_F_EVENT_IDX was negotiated.
    pub event_idx: bool,
}

/// How the driver violated the specification; the queue cannot be used further.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Not a power of two from 1 to 32768.
    #[error("a queue cannot have {0} descriptors")]
    Size(u16),
    /// A part of the queue is not aligned as §2.7 requires.
    #[error("the {part} is at {address:#x}, which is not aligned")]
    Misaligned {
        /// The part.
        part: &'static str,
        /// Where it is.
        address: u64,
    },
    /// A part of the queue is outside guest memory.
    #[error("the {0} is outside guest memory")]
    Outside(&'static str, #[source] SharedMemError),
    /// The available index is ahead of the taken entries by more than the queue size.
    #[error("the available index is {0} ahead, more than the queue has room for")]
    Overrun(u16),
    /// An available entry's head is outside the descriptor table.
    #[error("head {0} is outside the descriptor table")]
    Head(u16),
}

/// The device's half of one split virtqueue.
#[derive(Debug)]
pub struct Ring {
    size: u16,
    event_idx: bool,
    desc: SharedMem,
    avail: SharedMem,
    used: SharedMem,
    next_avail: u16,
    /// The available index as last read.
    seen_avail: u16,
    /// Where the next used element goes; ahead of the published index while a batch is built.
    next_used: u16,
    /// The used index at the last decision whether to call the driver.
    called_at: u16,
}

/// One raw descriptor, copied once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// The guest-physical address of the buffer.
    pub address: u64,
    /// Its length.
    pub len_bytes: u32,
    /// VIRTQ_DESC_F_*.
    pub flags: u16,
    /// The next descriptor, if the flags have VIRTQ_DESC_F_NEXT.
    pub next: u16,
}

impl Descriptor {
    /// Reads the descriptor at `index` of a table, each half of it once.
    pub(crate) fn read(table: &SharedMem, index: u16) -> Self {
        let offset = usize::from(index) * 16;
        let address = u64::from_le(table.at::<AtomicU64>(offset).load(Relaxed));
        let rest = u64::from_le(table.at::<AtomicU64>(offset + 8).load(Relaxed)).to_le_bytes();
        let [l0, l1, l2, l3, f0, f1, n0, n1] = rest;
        Self {
            address,
            len_bytes: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        }
    }
}

impl Ring {
    /// Maps the queue. Continues after the used index in guest memory, at the available entry
    /// `next_avail`.
    pub fn attach(
        memory: &Arc<GuestMemory>,
        layout: Layout,
        next_avail: u16,
    ) -> Result<Self, RingError> {
        let Layout { size, .. } = layout;
        if !size.is_power_of_two() || size > 1 << 15 {
            return Err(RingError::Size(size));
        }
        let entries = usize::from(size);
        // §2.7: descriptor table 16 bytes per entry, available ring 6 + 2, used ring 6 + 8.
        let part = |part, address: GuestAddress, align: usize, len_bytes| {
            let window = SharedMem::of_guest(memory, address, len_bytes)
                .map_err(|e| RingError::Outside(part, e))?;
            // A memory table may put a region at an odd guest address: both sides are checked.
            if !window.is_aligned(align) || !address.0.is_multiple_of(align as u64) {
                let address = address.0;
                return Err(RingError::Misaligned { part, address });
            }
            Ok(window)
        };
        let desc = part("descriptor table", layout.desc, 16, 16 * entries)?;
        let avail = part("available ring", layout.avail, 2, 6 + 2 * entries)?;
        let used = part("used ring", layout.used, 4, 6 + 8 * entries)?;
        let published = u16::from_le(used.at::<AtomicU16>(2).load(Acquire));
        Ok(Self {
            size,
            event_idx: layout.event_idx,
            desc,
            avail,
            used,
            next_avail,
            seen_avail: next_avail,
            next_used: published,
            called_at: published,
        })
    }

    /// The number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The descriptor table.
    pub fn descriptors(&self) -> &SharedMem {
        &self.desc
    }

    /// The index of the available entry to take next.
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Continues at the available entry `index`.
    pub fn set_next_avail(&mut self, index: u16) {
        self.next_avail = index;
        self.seen_avail = index;
    }

    /// The used index that publishing the batch will set.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// How many heads are available.
    pub fn available(&self) -> Result<u16, RingError> {
        let index = u16::from_le(self.avail.at::<AtomicU16>(2).load(Acquire));
        let ahead = index.wrapping_sub(self.next_avail);
        if ahead > self.size {
            return Err(RingError::Overrun(ahead));
        }
        Ok(ahead)
    }

    /// How many heads are known to be available; reads the driver's index only if there are none.
    pub fn known(&mut self) -> Result<u16, RingError> {
        let known = self.seen_avail.wrapping_sub(self.next_avail);
        // More than the queue holds: heads were taken after `available`, beyond the last index read
        // here.
        if known > 0 && known <= self.size {
            return Ok(known);
        }
        let known = self.available()?;
        self.seen_avail = self.next_avail.wrapping_add(known);
        Ok(known)
    }

    /// Takes the next head. Call [`Ring::available`] or [`Ring::known`] first, and only if there is
    /// one.
    pub fn take(&mut self) -> Result<u16, RingError> {
        let slot = usize::from(self.next_avail & (self.size - 1));
        let head = self.avail.at::<AtomicU16>(HEADER_BYTES + 2 * slot);
        let head = u16::from_le(head.load(Relaxed));
        if head >= self.size {
            return Err(RingError::Head(head));
        }
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(head)
    }

    /// Adds a used element to the batch; the driver does not see it yet.
    pub fn push_used(&mut self, head: u16, written_bytes: u32) {
        let slot = usize::from(self.next_used & (self.size - 1));
        let offset = HEADER_BYTES + 8 * slot;
        let id = u32::from(head).to_le();
        self.used.at::<AtomicU32>(offset).store(id, Relaxed);
        let len = written_bytes.to_le();
        self.used.at::<AtomicU32>(offset + 4).store(len, Relaxed);
        self.next_used = self.next_used.wrapping_add(1);
    }

    /// Publishes the batch to the driver.
    pub fn publish(&mut self) {
        let index = self.next_used.to_le();
        self.used.at::<AtomicU16>(2).store(index, Release);
    }

    /// Whether the driver wants a call for what was published since the last time.
    pub fn needs_call(&mut self) -> bool {
        // The published index must be visible before used_event is read (§2.7.7.2).
        fence(SeqCst);
        let (old, new) = (self.called_at, self.next_used);
        self.called_at = new;
        if old == new {
            return false;
        }
        if !self.event_idx {
            let flags = u16::from_le(self.avail.at::<AtomicU16>(0).load(Relaxed));
            return flags & NO_INTERRUPT == 0;
        }
        let offset = HEADER_BYTES + 2 * usize::from(self.size);
        let used_event = u16::from_le(self.avail.at::<AtomicU16>(offset).load(Relaxed));
        // vring_need_event (§2.7.7.2): the driver wants a call when the used index passes
        // used_event.
        new.wrapping_sub(used_event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Asks the driver to kick for what it makes available from now on. The caller must check
    /// [`Ring::available`] once more before it sleeps. Overwrites what an earlier backend left
    /// behind.
    pub fn enable_kicks(&self) {
        self.used.at::<AtomicU16>(0).store(0, Relaxed);
        if self.event_idx {
            self.avail_event().store(self.next_avail.to_le(), Relaxed);
        }
        // The request must be visible before the available index is read again (§2.7.10).
        fence(SeqCst);
    }

    /// Asks the driver not to kick, as a hint; with EVENT_IDX, avail_event does so once the driver
    /// has passed it.
    pub fn disable_kicks(&self) {
        if !self.event_idx {
            let flags = NO_NOTIFY.to_le();
            self.used.at::<AtomicU16>(0).store(flags, Relaxed);
        }
    }

    fn avail_event(&self) -> &AtomicU16 {
        self.used.at(HEADER_BYTES + 8 * usize::from(self.size))
    }
}

#[cfg(test)]
mod tests;
