// SPDX-License-Identifier: Apache-2.0
//! What an engine does: one operation on the image, with vectors that point into guest memory.
//!
//! An [`Io`] belongs to a descriptor head and is reused by the next request at that head, so that
//! its vectors are allocated once.

use backend::GuestMemory;
use backend::chain::Buffer;
use launch::disk::Geometry;
use vm_memory::Bytes;
use vm_memory::volatile_memory::VolatileSlice;

/// The page of zeroes that write-zeroes falls back to is written this many times at most.
const ZEROES_BYTES: usize = 64 << 10;
/// As aligned as any device wants it.
const ALIGN_BYTES: usize = 4096;
/// The most vectors of one call, in Linux.
const VECTORS_MAX: usize = 1024;
/// The longest request that is copied because its buffers are not aligned for direct I/O.
const BOUNCE_MAX_BYTES: u64 = 16 << 20;

/// An operation on the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Fill the vectors.
    Read,
    /// Write the vectors.
    Write,
    /// Make what was written durable.
    Flush,
    /// The range is not needed any more.
    Discard,
    /// The range shall read as zeroes.
    WriteZeroes {
        /// Whether its space may be given back.
        unmap: bool,
    },
}

/// One operation and its range.
#[derive(Debug)]
pub struct Io {
    op: Op,
    offset: u64,
    len_bytes: u64,
    durable: bool,
    vectors: Vec<libc::iovec>,
    bounce: Option<Box<Bounce>>,
}

#[allow(unsafe_code)]
// SAFETY: the vectors are addresses for the kernel; nothing here dereferences them.
unsafe impl Send for Io {}

/// A copy of a request's data that is aligned as direct I/O needs it.
#[derive(Debug)]
struct Bounce {
    /// Longer than needed, so that it has an aligned address in it.
    bytes: Vec<u8>,
    /// Where that is.
    start: usize,
    buffers: Vec<Buffer>,
}

#[repr(C, align(4096))]
struct Zeroes([u8; ZEROES_BYTES]);
static ZEROES: Zeroes = Zeroes([0; ZEROES_BYTES]);

/// A request is too long for one call, or its buffers are not in guest memory.
#[derive(Debug, thiserror::Error)]
#[error("the request cannot be done in one call")]
pub struct TooLarge;

impl Default for Io {
    fn default() -> Self {
        Self {
            op: Op::Flush,
            offset: 0,
            len_bytes: 0,
            durable: false,
            vectors: Vec::new(),
            bounce: None,
        }
    }
}

impl Io {
    /// The longest transfer of one call, in Linux (MAX_RW_COUNT).
    pub const MAX_BYTES: u64 = 0x7fff_f000;

    /// Forgets the last operation. What a `durable` one writes is on stable storage when it
    /// completes, because the driver does not flush.
    pub fn clear(&mut self, durable: bool) {
        self.durable = durable;
        self.vectors.clear();
        self.bounce = None;
        self.set(Op::Flush, 0, 0);
    }

    /// Says what is to be done, and where.
    pub fn set(&mut self, op: Op, offset: u64, len_bytes: u64) {
        self.op = op;
        self.offset = offset;
        self.len_bytes = len_bytes;
    }

    /// Adds a piece of guest memory to the vectors.
    pub fn push(&mut self, slice: &VolatileSlice<'_, ()>) -> Result<(), TooLarge> {
        if self.vectors.len() == VECTORS_MAX {
            return Err(TooLarge);
        }
        self.vectors.push(libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        });
        Ok(())
    }

    /// What is to be done.
    pub fn op(&self) -> Op {
        self.op
    }

    /// Where it begins, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The length of the range in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Whether a write must be on stable storage when it completes.
    pub fn durable(&self) -> bool {
        self.durable
    }

    /// The vectors of a read or write.
    pub fn vectors(&self) -> &[libc::iovec] {
        &self.vectors
    }

    /// Whether the vectors can be used as they are.
    pub fn is_aligned(&self, geometry: &Geometry) -> bool {
        if geometry.memory_align_bytes <= 1 {
            return true;
        }
        let (memory, block) = (geometry.memory_align_bytes, geometry.logical_block_bytes);
        self.vectors.iter().all(|vector| {
            vector.iov_base.addr().is_multiple_of(memory as usize)
                && vector.iov_len.is_multiple_of(block as usize)
        })
    }

    /// Replaces the vectors by one aligned copy; reads are copied back by [`Io::unbounce`].
    pub fn bounce(&mut self, buffers: &[Buffer], memory: &GuestMemory) -> Result<(), TooLarge> {
        if self.len_bytes > BOUNCE_MAX_BYTES {
            return Err(TooLarge);
        }
        let len = usize::try_from(self.len_bytes).map_err(|_| TooLarge)?;
        let mut bytes = vec![0; len + ALIGN_BYTES];
        let start = bytes.as_ptr().align_offset(ALIGN_BYTES);
        let aligned = bytes.get_mut(start..).and_then(|rest| rest.get_mut(..len));
        let aligned = aligned.ok_or(TooLarge)?;
        if self.op == Op::Write {
            let mut rest = &mut *aligned;
            for buffer in buffers {
                let (part, behind) = rest.split_at_mut(buffer.len_bytes as usize);
                let read = memory.read_slice(part, buffer.address);
                read.map_err(|_| TooLarge)?;
                rest = behind;
            }
        }
        self.vectors.clear();
        self.vectors.push(libc::iovec {
            iov_base: aligned.as_mut_ptr().cast(),
            iov_len: len,
        });
        let buffers = buffers.to_vec();
        self.bounce = Some(Box::new(Bounce {
            bytes,
            start,
            buffers,
        }));
        Ok(())
    }

    /// How much of this process's memory the copy takes, if there is one.
    pub fn bounced_bytes(&self) -> u64 {
        let bounce = self.bounce.as_ref();
        bounce.map_or(0, |bounce| bounce.bytes.len() as u64)
    }

    /// Lets go of the copy, if there is one: the operation has failed.
    pub fn forget_bounce(&mut self) {
        self.bounce = None;
    }

    /// After a read: brings what was read to where the guest wants it.
    pub fn unbounce(&mut self, memory: &GuestMemory) {
        let Some(bounce) = self.bounce.take() else {
            return;
        };
        if self.op != Op::Read {
            return;
        }
        let mut rest = &bounce.bytes[bounce.start..];
        for buffer in &bounce.buffers {
            let (part, behind) = rest.split_at(buffer.len_bytes as usize);
            // The buffers were in this memory when the request was parsed.
            let _ = memory.write_slice(part, buffer.address);
            rest = behind;
        }
    }

    /// Turns write-zeroes into a write, where the file system cannot do it otherwise.
    pub fn become_write_of_zeroes(&mut self) {
        self.vectors.clear();
        let mut left = usize::try_from(self.len_bytes).unwrap_or(0);
        while left > 0 && self.vectors.len() < VECTORS_MAX {
            let len = left.min(ZEROES_BYTES);
            let base: *const u8 = ZEROES.0.as_ptr();
            self.vectors.push(libc::iovec {
                iov_base: base.cast_mut().cast(),
                iov_len: len,
            });
            left -= len;
        }
        self.op = Op::Write;
    }

    /// Turns a write-zeroes that is done into the flush that makes it durable.
    pub fn become_flush(&mut self) {
        self.durable = false;
        self.op = Op::Flush;
    }
}
