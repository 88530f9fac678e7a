// SPDX-License-Identifier: Apache-2.0
//! One operation of an engine on the image, with vectors that point into guest memory.
//!
//! An [`Io`] belongs to a descriptor head, and the next request at that head reuses it, so that its
//! vectors are allocated once.

use std::ops::Range;

use device_backend::GuestMemory;
use device_backend::chain::Buffer;
use ipc::record::Geometry;
use vm_memory::volatile_memory::VolatileSlice;

use bounce::Bounce;
use partial::{Partial, Step, inward, outward};

mod bounce;
mod partial;

/// The length of the zeroes that a fallback of write-zeroes writes repeatedly.
const ZEROES_BYTES: usize = 64 << 10;
/// Linux's limit of vectors per call.
const VECTORS_MAX: usize = 1024;
/// An operation on the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Read into the vectors.
    Read,
    /// Write the vectors.
    Write,
    /// Make earlier writes durable.
    Flush,
    /// Deallocate the range.
    Discard,
    /// Zero the range.
    WriteZeroes {
        /// Whether the range may be deallocated.
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
    /// The steps that follow this operation, if the request covers parts of blocks.
    partial: Option<Partial>,
    /// The range to lock against other requests in [`Blocks`](crate::blocks::Blocks), if any.
    changes: Option<Range<u64>>,
}

#[allow(unsafe_code)]
// SAFETY: the vectors are addresses for the kernel; nothing here dereferences them.
unsafe impl Send for Io {}

#[repr(C, align(4096))]
struct Zeroes([u8; ZEROES_BYTES]);
static ZEROES: Zeroes = Zeroes([0; ZEROES_BYTES]);

/// A request is too large for one call, or its buffers are not in guest memory.
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
            partial: None,
            changes: None,
        }
    }
}

impl Io {
    /// Linux's limit of a transfer per call (MAX_RW_COUNT).
    pub const MAX_BYTES: u64 = 0x7fff_f000;

    /// Clears the previous operation. A `durable` write must be on stable storage when it
    /// completes, because the driver does not flush.
    pub fn clear(&mut self, durable: bool) {
        self.durable = durable;
        self.vectors.clear();
        self.bounce = None;
        self.partial = None;
        self.changes = None;
        self.set(Op::Flush, 0, 0);
    }

    /// Sets the operation and its range.
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

    /// The operation.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The start of the range in bytes.
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

    /// Whether direct I/O can use the vectors as they are.
    pub fn is_aligned(&self, geometry: &Geometry) -> bool {
        if geometry.memory_align_bytes <= 1 {
            return true;
        }
        let (memory, block) = (geometry.memory_align_bytes, geometry.io_block_bytes());
        self.vectors.iter().all(|vector| {
            vector.iov_base.addr().is_multiple_of(memory as usize)
                && vector.iov_len.is_multiple_of(block as usize)
        })
    }

    /// Replaces the vectors by one aligned copy; [`Io::unbounce`] copies a read back.
    pub fn bounce(&mut self, buffers: &[Buffer], memory: &GuestMemory) -> Result<(), TooLarge> {
        let mut bounce = Bounce::new(self.len_bytes, buffers)?;
        let len = usize::try_from(self.len_bytes).map_err(|_| TooLarge)?;
        if self.op == Op::Write {
            bounce.fill(len, memory)?;
        }
        self.bounce = Some(Box::new(bounce));
        self.use_copy(self.len_bytes)
    }

    /// Makes the first part of the copy the only vector.
    fn use_copy(&mut self, len_bytes: u64) -> Result<(), TooLarge> {
        let len = usize::try_from(len_bytes).map_err(|_| TooLarge)?;
        let bounce = self.bounce.as_mut().ok_or(TooLarge)?;
        let base = bounce.part(0, len)?.as_mut_ptr().cast();
        self.vectors.clear();
        self.vectors.push(libc::iovec {
            iov_base: base,
            iov_len: len,
        });
        Ok(())
    }

    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len_bytes
    }

    /// The range in which no other request may change a block meanwhile, if any.
    pub fn changes(&self) -> Option<Range<u64>> {
        self.changes.clone()
    }

    /// For storage with larger blocks than the guest's: reserves the blocks that the request
    /// changes. A request that begins or ends within a block becomes several operations on whole
    /// blocks, one after the other.
    pub fn keep_to_blocks(&mut self, buffers: &[Buffer], block_bytes: u64) -> Result<(), TooLarge> {
        let range = self.range();
        let whole = outward(&range, block_bytes);
        if self.op != Op::Read {
            self.changes = Some(whole.clone());
        }
        if whole == range {
            return Ok(());
        }
        let partial = Partial::new(self.op, range, block_bytes);
        self.bounce = Some(Box::new(Bounce::new(partial.copy_bytes(), buffers)?));
        self.partial = Some(partial);
        self.set_step(None).map(drop)
    }

    /// Restricts a discard to the blocks that it covers whole. Returns whether there are any.
    pub fn shrink_to_blocks(&mut self, block_bytes: u64) -> bool {
        let inner = inward(&self.range(), block_bytes);
        self.set(self.op, inner.start, inner.end - inner.start);
        self.changes = Some(inner.clone());
        !inner.is_empty()
    }

    /// Turns a completed operation into the next one of its request. False if there is none.
    pub fn go_on(&mut self, memory: &GuestMemory) -> Result<bool, TooLarge> {
        let Some(partial) = &mut self.partial else {
            return Ok(false);
        };
        partial.advance();
        self.set_step(Some(memory))
    }

    fn set_step(&mut self, memory: Option<&GuestMemory>) -> Result<bool, TooLarge> {
        let Some(partial) = &self.partial else {
            return Ok(false);
        };
        let (op, range) = (partial.op, partial.range.clone());
        let (next, blocks) = match partial.step().cloned() {
            Some(Step::Cover(blocks) | Step::Fetch(blocks)) => (Op::Read, blocks),
            Some(Step::Store(blocks)) => {
                self.change(op, &range, &blocks, memory)?;
                (Op::Write, blocks)
            }
            Some(Step::Middle(blocks)) => {
                self.vectors.clear();
                self.set(op, blocks.start, blocks.end - blocks.start);
                return Ok(true);
            }
            None => {
                self.set(op, range.start, range.end - range.start);
                return Ok(false);
            }
        };
        let len_bytes = blocks.end - blocks.start;
        if let (Op::Read, Some(bounce)) = (op, &mut self.bounce) {
            bounce.skip = usize::try_from(range.start - blocks.start).map_err(|_| TooLarge)?;
        }
        self.set(next, blocks.start, len_bytes);
        self.use_copy(len_bytes)?;
        Ok(true)
    }

    /// Applies the request on `range` to the copy of some blocks.
    fn change(
        &mut self,
        op: Op,
        range: &Range<u64>,
        blocks: &Range<u64>,
        memory: Option<&GuestMemory>,
    ) -> Result<(), TooLarge> {
        let bounce = self.bounce.as_mut().ok_or(TooLarge)?;
        let (start, end) = (range.start.max(blocks.start), range.end.min(blocks.end));
        let from = usize::try_from(start - blocks.start).map_err(|_| TooLarge)?;
        let len = usize::try_from(end - start).map_err(|_| TooLarge)?;
        match (op, memory) {
            (Op::Write, Some(memory)) => {
                bounce.skip = from;
                bounce.fill(len, memory)
            }
            (Op::WriteZeroes { .. }, _) => {
                bounce.part(from, len)?.fill(0);
                Ok(())
            }
            _ => Err(TooLarge),
        }
    }

    /// How much of this process's memory the copy takes.
    pub fn bounced_bytes(&self) -> u64 {
        let bounce = self.bounce.as_ref();
        bounce.map_or(0, |bounce| bounce.len_bytes())
    }

    /// Frees the copy after a failed operation.
    pub fn forget_bounce(&mut self) {
        self.bounce = None;
    }

    /// After a read: copies the data to the guest's buffers.
    pub fn unbounce(&mut self, memory: &GuestMemory) {
        let Some(bounce) = self.bounce.take() else {
            return;
        };
        if self.op != Op::Read {
            return;
        }
        bounce.empty(memory);
    }

    /// Turns write-zeroes into a write, for file systems that do not support it.
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

    /// Turns a completed write-zeroes into the flush that makes it durable.
    pub fn become_flush(&mut self) {
        self.durable = false;
        self.op = Op::Flush;
    }
}
