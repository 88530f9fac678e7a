// SPDX-License-Identifier: Apache-2.0
//! The driver's half of a split virtqueue (virtio 1.2, §2.7).
//!
//! Each slot of the queue has its own descriptors, so that a head says whose it is. Whatever the
//! device writes is checked: this is also the tool that finds backends out.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, fence};

use device_backend::shared_mem::SharedMem;
use vm_memory::GuestAddress;

use crate::memory::{Memory, MemoryError};

/// VIRTQ_DESC_F_NEXT
pub const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE
pub const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT
pub const INDIRECT: u16 = 4;

/// A descriptor as the driver writes it.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// The guest address of the buffer.
    pub address: GuestAddress,
    /// Its length.
    pub len_bytes: u32,
    /// VIRTQ_DESC_F_*.
    pub flags: u16,
    /// The next descriptor.
    pub next: u16,
}

/// What a device did that no device may do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceFault {
    /// More used elements than heads were outstanding.
    #[error("the used index ran ahead by {0}")]
    Overrun(u16),
    /// A used element names a head that is not outstanding.
    #[error("head {0} was used, and was not outstanding")]
    Unexpected(u32),
}

/// How a queue is to be.
#[derive(Debug, Clone, Copy)]
pub struct RingOptions {
    /// The number of descriptors.
    pub size: u16,
    /// Whether VIRTIO_F_EVENT_IDX will be negotiated.
    pub event_idx: bool,
    /// The index at which both rings begin: anything, to see it wrap.
    pub start: u16,
}

/// The driver's half of a queue.
#[derive(Debug)]
pub struct Ring {
    options: RingOptions,
    addresses: [GuestAddress; 3],
    desc: SharedMem,
    avail: SharedMem,
    used: SharedMem,
    next_avail: u16,
    shown: u16,
    last_used: u16,
    outstanding: Vec<bool>,
}

impl Ring {
    /// Puts a queue into guest memory.
    pub fn new(memory: &mut Memory, options: RingOptions) -> Result<Self, MemoryError> {
        let entries = usize::from(options.size);
        let lens = [16 * entries, 6 + 2 * entries, 6 + 8 * entries];
        let mut addresses = [GuestAddress(0); 3];
        for (address, len) in addresses.iter_mut().zip(lens) {
            *address = memory.take(len as u64)?;
        }
        let [desc, avail, used] = addresses;
        let ring = Self {
            options,
            addresses,
            desc: memory.window(desc, lens[0])?,
            avail: memory.window(avail, lens[1])?,
            used: memory.window(used, lens[2])?,
            next_avail: options.start,
            shown: options.start,
            last_used: options.start,
            outstanding: vec![false; entries],
        };
        ring.avail.at::<AtomicU16>(2).store(options.start, Relaxed);
        ring.used.at::<AtomicU16>(2).store(options.start, Relaxed);
        Ok(ring)
    }

    /// How the queue is.
    pub fn options(&self) -> RingOptions {
        self.options
    }

    /// Descriptor table, available ring and used ring.
    pub fn addresses(&self) -> [GuestAddress; 3] {
        self.addresses
    }

    /// The used ring.
    pub fn used(&self) -> &SharedMem {
        &self.used
    }

    /// The used index as the device has published it: where a new backend has to begin.
    pub fn used_idx(&self) -> u16 {
        u16::from_le(self.used.at::<AtomicU16>(2).load(Acquire))
    }

    /// The number of heads that the device has.
    pub fn outstanding(&self) -> usize {
        self.outstanding.iter().filter(|taken| **taken).count()
    }

    /// Writes a descriptor.
    pub fn describe(&self, index: u16, descriptor: Descriptor) {
        write_descriptor(&self.desc, index, descriptor);
    }

    /// Puts a head behind those that are available; the device does not see it yet.
    pub fn offer(&mut self, head: u16) {
        let slot = usize::from(self.next_avail % self.options.size);
        self.avail
            .at::<AtomicU16>(4 + 2 * slot)
            .store(head.to_le(), Relaxed);
        self.next_avail = self.next_avail.wrapping_add(1);
        if let Some(outstanding) = self.outstanding.get_mut(usize::from(head)) {
            *outstanding = true;
        }
    }

    /// Shows the device what was offered; says whether it wants a kick.
    pub fn show(&mut self) -> bool {
        let (old, new) = (self.shown, self.next_avail);
        if old == new {
            return false;
        }
        self.shown = new;
        self.avail.at::<AtomicU16>(2).store(new.to_le(), Release);
        fence(SeqCst);
        if !self.options.event_idx {
            return u16::from_le(self.used.at::<AtomicU16>(0).load(Relaxed)) & 1 == 0;
        }
        let offset = 4 + 8 * usize::from(self.options.size);
        let event = u16::from_le(self.used.at::<AtomicU16>(offset).load(Relaxed));
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
    }

    /// Whether the device has used something that was not taken back yet.
    pub fn has_used(&self) -> bool {
        self.used_idx() != self.last_used
    }

    /// Takes back the next used head, with the number of bytes written.
    pub fn reap(&mut self) -> Result<Option<(u16, u32)>, DeviceFault> {
        let ahead = self.used_idx().wrapping_sub(self.last_used);
        if ahead == 0 {
            return Ok(None);
        }
        if ahead > self.options.size {
            return Err(DeviceFault::Overrun(ahead));
        }
        let slot = usize::from(self.last_used % self.options.size);
        let id = u32::from_le(self.used.at::<AtomicU32>(4 + 8 * slot).load(Relaxed));
        let len = u32::from_le(self.used.at::<AtomicU32>(8 + 8 * slot).load(Relaxed));
        let head = u16::try_from(id).map_err(|_| DeviceFault::Unexpected(id))?;
        let outstanding = self.outstanding.get_mut(usize::from(head));
        match outstanding {
            Some(taken) if *taken => *taken = false,
            _ => return Err(DeviceFault::Unexpected(id)),
        }
        self.last_used = self.last_used.wrapping_add(1);
        Ok(Some((head, len)))
    }

    /// Asks for a call at the next used head; then look once more before sleeping.
    pub fn enable_calls(&self) {
        if self.options.event_idx {
            self.used_event().store(self.last_used.to_le(), Relaxed);
        } else {
            self.avail.at::<AtomicU16>(0).store(0, Relaxed);
        }
        fence(SeqCst);
    }

    /// Asks for no calls.
    pub fn disable_calls(&self) {
        if self.options.event_idx {
            let never = self.last_used.wrapping_sub(1);
            self.used_event().store(never.to_le(), Relaxed);
        } else {
            self.avail.at::<AtomicU16>(0).store(1_u16.to_le(), Relaxed);
        }
    }

    fn used_event(&self) -> &AtomicU16 {
        self.avail.at(4 + 2 * usize::from(self.options.size))
    }
}

/// Writes a descriptor into a table, an indirect one too.
pub fn write_descriptor(table: &SharedMem, index: u16, descriptor: Descriptor) {
    let offset = 16 * usize::from(index);
    let [l0, l1, l2, l3] = descriptor.len_bytes.to_le_bytes();
    let [f0, f1] = descriptor.flags.to_le_bytes();
    let [n0, n1] = descriptor.next.to_le_bytes();
    let rest = u64::from_le_bytes([l0, l1, l2, l3, f0, f1, n0, n1]);
    table
        .at::<AtomicU64>(offset)
        .store(descriptor.address.0.to_le(), Relaxed);
    table
        .at::<AtomicU64>(offset + 8)
        .store(rest.to_le(), Relaxed);
}
