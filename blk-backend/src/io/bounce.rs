// SPDX-License-Identifier: Apache-2.0
//! Copies of what requests read and write, where the guest's buffers cannot be used as they are:
//! because of where they are in memory, or because whole blocks are read and written for a part.
//!
//! Used by the worker thread that owns the queue.

use device_backend::GuestMemory;
use device_backend::chain::Buffer;
use vm_memory::Bytes;

use super::TooLarge;

/// As aligned as any device wants it.
const ALIGN_BYTES: usize = 4096;
/// The longest copy.
const BOUNCE_MAX_BYTES: u64 = 16 << 20;

/// A copy of a request's data that is aligned as direct I/O needs it.
#[derive(Debug)]
pub(super) struct Bounce {
    /// Longer than needed, so that it has an aligned address in it.
    bytes: Vec<u8>,
    /// Where that is.
    start: usize,
    /// How far behind it what the guest wants begins.
    pub(super) skip: usize,
    buffers: Vec<Buffer>,
}

impl Bounce {
    pub(super) fn new(len_bytes: u64, buffers: &[Buffer]) -> Result<Self, TooLarge> {
        if len_bytes > BOUNCE_MAX_BYTES {
            return Err(TooLarge);
        }
        let len = usize::try_from(len_bytes).map_err(|_| TooLarge)?;
        let bytes = vec![0; len + ALIGN_BYTES];
        let start = bytes.as_ptr().align_offset(ALIGN_BYTES);
        let buffers = buffers.to_vec();
        Ok(Self {
            bytes,
            start,
            skip: 0,
            buffers,
        })
    }

    /// Some of the copy, counted from its aligned address.
    pub(super) fn part(&mut self, from: usize, len: usize) -> Result<&mut [u8], TooLarge> {
        let rest = self.bytes.get_mut(self.start..).ok_or(TooLarge)?;
        let rest = rest.get_mut(from..).ok_or(TooLarge)?;
        rest.get_mut(..len).ok_or(TooLarge)
    }

    /// Copies what the guest writes to where it belongs.
    pub(super) fn fill(&mut self, len: usize, memory: &GuestMemory) -> Result<(), TooLarge> {
        let buffers = std::mem::take(&mut self.buffers);
        let mut rest = self.part(self.skip, len)?;
        for buffer in &buffers {
            let (part, behind) = rest.split_at_mut(buffer.len_bytes as usize);
            let read = memory.read_slice(part, buffer.address);
            read.map_err(|_| TooLarge)?;
            rest = behind;
        }
        self.buffers = buffers;
        Ok(())
    }

    /// Copies what was read to where the guest wants it.
    pub(super) fn empty(&self, memory: &GuestMemory) {
        let mut rest = &self.bytes[self.start + self.skip..];
        for buffer in &self.buffers {
            let (part, behind) = rest.split_at(buffer.len_bytes as usize);
            // The buffers were in this memory when the request was parsed.
            let _ = memory.write_slice(part, buffer.address);
            rest = behind;
        }
    }

    /// How much memory it takes.
    pub(super) fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}
