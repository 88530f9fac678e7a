// SPDX-License-Identifier: Apache-2.0
//! Bounce buffers for requests whose guest buffers cannot be used directly: because they are not
//! aligned, or because whole blocks are read and written for a part.
//!
//! Used by the worker thread that owns the queue.

use device_backend::GuestMemory;
use device_backend::chain::Buffer;
use vm_memory::Bytes;

use super::TooLarge;

/// The alignment, enough for every device.
const ALIGN_BYTES: usize = 4096;
/// The longest copy.
const BOUNCE_MAX_BYTES: u64 = 16 << 20;

/// A copy of a request's data with the alignment of direct I/O.
#[derive(Debug)]
pub(super) struct Bounce {
    /// Longer than needed, so that it contains an aligned address.
    bytes: Vec<u8>,
    /// The offset of that address.
    start: usize,
    /// The offset from there to the guest's data.
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

    /// A part of the copy, from its aligned address on.
    pub(super) fn part(&mut self, from: usize, len: usize) -> Result<&mut [u8], TooLarge> {
        let rest = self.bytes.get_mut(self.start..).ok_or(TooLarge)?;
        let rest = rest.get_mut(from..).ok_or(TooLarge)?;
        rest.get_mut(..len).ok_or(TooLarge)
    }

    /// Copies the guest's data into the copy.
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

    /// Copies the data read to the guest's buffers.
    pub(super) fn empty(&self, memory: &GuestMemory) {
        let mut rest = &self.bytes[self.start + self.skip..];
        for buffer in &self.buffers {
            let (part, behind) = rest.split_at(buffer.len_bytes as usize);
            // The buffers were in this memory when the request was parsed.
            let _ = memory.write_slice(part, buffer.address);
            rest = behind;
        }
    }

    /// The length of the copy with its padding.
    pub(super) fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}
