// SPDX-License-Identifier: Apache-2.0
//! Buffers for received frames: the guest's in their order, and behind them one of our own, so that
//! no frame is cut short because the guest's first buffers are few or small.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use device_backend::chain::Buffer;
use device_backend::{GuestMemory, bytes};
use nix::errno::Errno;
use vm_memory::GuestMemoryBackend;

/// The size of our own buffer: the longest frame with its header.
const OVERFLOW_BYTES: usize = 68 << 10;
/// The most vectors of one readv(2) in Linux, less the one for our own buffer.
const VECTORS_MAX: usize = 1023;

/// A buffer of the guest is not in its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside;

/// A chain of the guest's buffers.
#[derive(Debug, Clone, Copy)]
struct Head {
    id: u16,
    vectors: usize,
    len_bytes: usize,
}

/// The buffers for received frames.
#[derive(Debug)]
pub struct RxBuffers {
    heads: VecDeque<Head>,
    buffers: VecDeque<Buffer>,
    vectors: VecDeque<libc::iovec>,
    room_bytes: usize,
    overflow: Box<[u8]>,
    /// How much of the last frame read is in the guest's buffers.
    direct_bytes: usize,
    call: Vec<libc::iovec>,
    memory: Option<Arc<GuestMemory>>,
}

#[allow(unsafe_code)]
// SAFETY: the vectors are addresses for the kernel; nothing here dereferences them.
unsafe impl Send for RxBuffers {}

impl Default for RxBuffers {
    fn default() -> Self {
        Self {
            heads: VecDeque::new(),
            buffers: VecDeque::new(),
            vectors: VecDeque::new(),
            room_bytes: 0,
            overflow: vec![0; OVERFLOW_BYTES].into(),
            direct_bytes: 0,
            call: Vec::new(),
            memory: None,
        }
    }
}

impl RxBuffers {
    /// Drops all of the guest's buffers; the next ones are in this memory.
    pub fn reset(&mut self, memory: Option<Arc<GuestMemory>>) {
        self.heads.clear();
        self.buffers.clear();
        self.vectors.clear();
        self.room_bytes = 0;
        self.memory = memory;
    }

    /// Adds a chain of buffers behind the others.
    pub fn add(&mut self, id: u16, buffers: &[Buffer]) -> Result<(), Outside> {
        let Some(memory) = &self.memory else {
            return Err(Outside);
        };
        let before = self.vectors.len();
        let mut len_bytes = 0;
        for buffer in buffers {
            let len = buffer.len_bytes as usize;
            for slice in memory.get_slices(buffer.address, len) {
                let slice = slice.map_err(|_| Outside)?;
                self.vectors.push_back(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
            }
            self.buffers.push_back(*buffer);
            len_bytes += len;
        }
        self.heads.push_back(Head {
            id,
            vectors: self.vectors.len() - before,
            len_bytes,
        });
        self.room_bytes += len_bytes;
        Ok(())
    }

    /// How many chains there are.
    pub fn heads(&self) -> u16 {
        u16::try_from(self.heads.len()).unwrap_or(u16::MAX)
    }

    /// How many bytes fit into them.
    pub fn room_bytes(&self) -> usize {
        self.room_bytes
    }

    /// Reads a frame: into the guest's buffers, at least `reach_bytes` of them if there are as
    /// many, then into our own. Returns its length.
    #[allow(unsafe_code)]
    pub fn read(&mut self, tap: BorrowedFd<'_>, reach_bytes: usize) -> io::Result<usize> {
        self.call.clear();
        self.direct_bytes = 0;
        for vector in self.vectors.iter().take(VECTORS_MAX) {
            if self.direct_bytes >= reach_bytes {
                break;
            }
            self.call.push(*vector);
            self.direct_bytes += vector.iov_len;
        }
        self.call.push(libc::iovec {
            iov_base: self.overflow.as_mut_ptr().cast(),
            iov_len: self.overflow.len(),
        });
        let count = libc::c_int::try_from(self.call.len()).unwrap_or(0);
        // SAFETY: the last vector is `overflow`, which this owns; the others were made by `add` from
        // slices of `memory`, which this keeps mapped. The guest's memory may change at any time.
        let read = unsafe { libc::readv(tap.as_raw_fd(), self.call.as_ptr(), count) };
        let read = Errno::result(read)?;
        Ok(usize::try_from(read).unwrap_or(0))
    }

    /// How much of a frame of this length is not in the guest's buffers yet.
    pub fn overflow_bytes(&self, len_bytes: usize) -> usize {
        len_bytes.saturating_sub(self.direct_bytes)
    }

    /// Copies the beginning of the last frame read.
    pub fn peek(&self, bytes: &mut [u8]) {
        let direct = bytes.len().min(self.direct_bytes);
        let (guest, own) = bytes.split_at_mut(direct);
        self.each_part(0, guest.len(), |memory, buffer, at| {
            let part = &mut guest[at..at + buffer.len_bytes as usize];
            let _ = bytes::read(memory, part, buffer.address);
        });
        let len = own.len();
        own.copy_from_slice(&self.overflow[..len]);
    }

    /// Moves what our own buffer holds of a frame of this length into the guest's buffers, where
    /// there is room.
    pub fn settle(&mut self, len_bytes: usize) {
        let overflowed = self.overflow_bytes(len_bytes);
        if overflowed > 0 {
            self.write(
                self.direct_bytes,
                &self.overflow[..overflowed.min(OVERFLOW_BYTES)],
            );
        }
    }

    /// Writes into the guest's buffers, at an offset from the first one.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        self.each_part(offset, bytes.len(), |memory, buffer, at| {
            let part = &bytes[at..at + buffer.len_bytes as usize];
            let _ = bytes::write(memory, part, buffer.address);
        });
    }

    /// Calls `part` for each piece of a range of the guest's buffers, with its place in the range.
    fn each_part(
        &self,
        offset: usize,
        len: usize,
        mut part: impl FnMut(&GuestMemory, Buffer, usize),
    ) {
        let Some(memory) = &self.memory else {
            return;
        };
        let (mut skip, mut done) = (offset, 0);
        for buffer in &self.buffers {
            let buffer_bytes = buffer.len_bytes as usize;
            if skip >= buffer_bytes {
                skip -= buffer_bytes;
                continue;
            }
            let bytes = (buffer_bytes - skip).min(len - done);
            let Some(address) = buffer.address.0.checked_add(skip as u64) else {
                return;
            };
            let piece = Buffer {
                address: vm_memory::GuestAddress(address),
                len_bytes: u32::try_from(bytes).unwrap_or(0),
            };
            part(memory, piece, done);
            (skip, done) = (0, done + bytes);
            if done == len {
                return;
            }
        }
    }

    /// How many chains a frame of this length takes; `None` if it needs more than there are.
    pub fn chains_for(&self, len_bytes: usize) -> Option<u16> {
        let mut left = len_bytes;
        for (count, head) in (1..).zip(&self.heads) {
            left = left.saturating_sub(head.len_bytes);
            if left == 0 {
                return Some(count);
            }
        }
        None
    }

    /// Removes the first chain; returns its head and how much of `len_bytes` is in it.
    pub fn take(&mut self, len_bytes: usize) -> Option<(u16, usize)> {
        let head = self.heads.pop_front()?;
        self.vectors.drain(..head.vectors);
        let mut left = head.len_bytes;
        while left > 0 {
            left -= self
                .buffers
                .pop_front()
                .map_or(left, |b| b.len_bytes as usize);
        }
        self.room_bytes -= head.len_bytes;
        Some((head.id, len_bytes.min(head.len_bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use vm_memory::{Bytes, GuestAddress};

    fn buffer(address: u64, len_bytes: u32) -> Buffer {
        let address = GuestAddress(address);
        Buffer { address, len_bytes }
    }

    fn stage() -> (Arc<GuestMemory>, RxBuffers, UnixDatagram, UnixDatagram) {
        let ranges = [
            (GuestAddress(0x1000), 0x1000),
            (GuestAddress(0x2000), 0x20000),
        ];
        let memory = Arc::new(GuestMemory::from_ranges(&ranges).unwrap());
        let mut scatter = RxBuffers::default();
        scatter.reset(Some(memory.clone()));
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        (memory, scatter, ours, theirs)
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len)
            .map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1])
            .collect()
    }

    #[test]
    fn frame_is_read_across_chains_and_what_spills_is_settled() {
        let (memory, mut scatter, ours, theirs) = stage();
        scatter.add(3, &[buffer(0x1f00, 0x200)]).unwrap();
        scatter
            .add(9, &[buffer(0x3000, 0x100), buffer(0x4000, 0x1000)])
            .unwrap();
        let frame = content(0x800);
        theirs.send(&frame).unwrap();
        assert_eq!(scatter.read(ours.as_fd(), 0x100).unwrap(), 0x800);
        assert_eq!(scatter.overflow_bytes(0x800), 0x700);
        let mut head = [0; 0x300];
        scatter.peek(&mut head);
        assert_eq!(head, frame[..0x300]);
        assert_eq!(scatter.chains_for(0x800), Some(2));
        scatter.settle(0x800);
        scatter.write(0xff, &[0xaa, 0xbb]);
        assert_eq!(scatter.take(0x800), Some((3, 0x200)));
        assert_eq!(scatter.take(0x600), Some((9, 0x600)));
        assert_eq!((scatter.heads(), scatter.room_bytes()), (0, 0));
        let mut expected = frame;
        expected[0xff..0x101].copy_from_slice(&[0xaa, 0xbb]);
        let mut found = vec![0; 0x800];
        let (a, rest) = found.split_at_mut(0x200);
        let (b, c) = rest.split_at_mut(0x100);
        for (part, address) in [(a, 0x1f00), (b, 0x3000), (c, 0x4000)] {
            memory.read_slice(part, GuestAddress(address)).unwrap();
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn frame_longer_than_the_room_takes_no_chains() {
        let (_, mut scatter, _, _) = stage();
        scatter.add(0, &[buffer(0x1000, 100)]).unwrap();
        assert_eq!(scatter.chains_for(101), None);
        assert_eq!(scatter.chains_for(100), Some(1));
    }

    #[test]
    fn buffer_outside_memory_is_refused() {
        let (_, mut scatter, _, _) = stage();
        for outside in [
            buffer(0, 64),
            buffer(u64::MAX - 8, 64),
            buffer(0x21ff0, 0x400),
        ] {
            assert_eq!(scatter.add(0, &[outside]), Err(Outside));
        }
    }
}
