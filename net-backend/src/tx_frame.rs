// SPDX-License-Identifier: Apache-2.0
//! A frame to send: its beginning is a copy, so that what was checked is what is sent; the rest
//! stays in guest memory. A short frame is copied whole, which costs less than a second vector.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use device_backend::chain::Buffer;
use device_backend::{GuestMemory, bytes};
use nix::errno::Errno;
use vm_memory::{GuestAddress, GuestMemoryBackend};

/// How much of a long frame and its header is copied: all that is ever checked.
pub const HEAD_BYTES: usize = 256;
/// The longest frame that is copied whole.
const SHORT_BYTES: usize = 2048;
/// The longest frame with its header: 64 KiB of IP in Ethernet, with two VLAN tags.
const FRAME_MAX_BYTES: usize = 65535 + 14 + 8 + host::tap::HEADER_BYTES;
/// The most vectors of one writev(2) in Linux.
const VECTORS_MAX: usize = 1024;

/// Buffers that do not make a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// Longer than frames can be.
    #[error("a frame is too long")]
    TooLong,
    /// In more pieces than one writev(2) takes.
    #[error("a frame has too many pieces")]
    TooManyPieces,
    /// Not in guest memory.
    #[error("a frame is outside guest memory")]
    Outside,
}

/// A frame to send.
#[derive(Debug)]
pub struct TxFrame {
    head: Box<[u8; SHORT_BYTES]>,
    head_bytes: usize,
    total_bytes: usize,
    vectors: Vec<libc::iovec>,
    /// What the vectors point into.
    memory: Option<Arc<GuestMemory>>,
}

#[allow(unsafe_code)]
// SAFETY: the vectors are addresses for the kernel; nothing here dereferences them.
unsafe impl Send for TxFrame {}

impl Default for TxFrame {
    fn default() -> Self {
        Self {
            head: Box::new([0; SHORT_BYTES]),
            head_bytes: 0,
            total_bytes: 0,
            vectors: Vec::new(),
            memory: None,
        }
    }
}

impl TxFrame {
    /// Loads a frame, in place of the last one.
    pub fn load(
        &mut self,
        memory: &Arc<GuestMemory>,
        buffers: &[Buffer],
    ) -> Result<(), FrameFault> {
        self.vectors.clear();
        (self.head_bytes, self.total_bytes) = (0, 0);
        if !self
            .memory
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, memory))
        {
            self.memory = Some(memory.clone());
        }
        self.vectors.push(libc::iovec {
            iov_base: self.head.as_mut_ptr().cast(),
            iov_len: 0,
        });
        // A chain has less than 4 GiB in total.
        self.total_bytes = buffers.iter().map(|b| b.len_bytes as usize).sum();
        if self.total_bytes > FRAME_MAX_BYTES {
            return Err(FrameFault::TooLong);
        }
        let is_short = self.total_bytes <= SHORT_BYTES;
        let head_bytes = if is_short { SHORT_BYTES } else { HEAD_BYTES };
        for buffer in buffers {
            let len = buffer.len_bytes as usize;
            let copied = len.min(head_bytes - self.head_bytes);
            let room = &mut self.head[self.head_bytes..self.head_bytes + copied];
            bytes::read(memory, room, buffer.address).map_err(|_| FrameFault::Outside)?;
            self.head_bytes += copied;
            self.refer(memory, buffer.address, copied, len)?;
        }
        self.vectors[0].iov_len = self.head_bytes;
        Ok(())
    }

    /// Adds what follows the copied part of a buffer.
    fn refer(
        &mut self,
        memory: &GuestMemory,
        address: GuestAddress,
        copied: usize,
        len: usize,
    ) -> Result<(), FrameFault> {
        if copied == len {
            return Ok(());
        }
        let start = address.0.checked_add(copied as u64);
        let start = GuestAddress(start.ok_or(FrameFault::Outside)?);
        for slice in memory.get_slices(start, len - copied) {
            let slice = slice.map_err(|_| FrameFault::Outside)?;
            if self.vectors.len() == VECTORS_MAX {
                return Err(FrameFault::TooManyPieces);
            }
            self.vectors.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        Ok(())
    }

    /// The copied beginning: the header, and what follows it.
    pub fn head(&self) -> &[u8] {
        &self.head[..self.head_bytes]
    }

    /// Replaces the flags that the driver wrote, the first byte of the header.
    pub fn set_flags(&mut self, flags: u8) {
        self.head[0] = flags;
    }

    /// The length of header and frame.
    pub fn len_bytes(&self) -> usize {
        self.total_bytes
    }

    /// Sends the frame, whole or not at all.
    #[allow(unsafe_code)]
    pub fn send(&self, tap: BorrowedFd<'_>) -> io::Result<usize> {
        if self.vectors.len() == 1 {
            // All of it was copied: no vectors to look at.
            return Ok(nix::unistd::write(tap, self.head())?);
        }
        let count = libc::c_int::try_from(self.vectors.len()).unwrap_or(0);
        // SAFETY: the first vector is `head`, which this owns; the others were made by `refer` from
        // slices of `memory`, which this keeps mapped. The kernel only reads them.
        let sent = unsafe { libc::writev(tap.as_raw_fd(), self.vectors.as_ptr(), count) };
        let sent = Errno::result(sent)?;
        Ok(usize::try_from(sent).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;
    use vm_memory::Bytes;

    fn memory() -> Arc<GuestMemory> {
        let ranges = [
            (GuestAddress(0x1000), 0x1000),
            (GuestAddress(0x2000), 0x20000),
        ];
        Arc::new(GuestMemory::from_ranges(&ranges).unwrap())
    }

    fn buffer(address: u64, len_bytes: u32) -> Buffer {
        let address = GuestAddress(address);
        Buffer { address, len_bytes }
    }

    #[test]
    fn short_frame_is_copied_whole() {
        let memory = memory();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut gather = TxFrame::default();
        let parts = [buffer(0x1f00, 0x200), buffer(0x3000, 0x600)];
        gather.load(&memory, &parts).unwrap();
        assert_eq!(gather.head().len(), SHORT_BYTES);
        memory
            .write_slice(&[0xff; 0x600], GuestAddress(0x3000))
            .unwrap();
        assert_eq!(gather.send(ours.as_fd()).unwrap(), SHORT_BYTES);
        let mut received = [1; SHORT_BYTES + 1];
        assert_eq!(theirs.recv(&mut received).unwrap(), SHORT_BYTES);
        assert_eq!(received[..SHORT_BYTES], [0; SHORT_BYTES]);
    }

    #[test]
    fn frame_across_buffers_and_regions_is_sent_as_one() {
        let memory = memory();
        let content: Vec<u8> = (0..0x1200)
            .map(|n: u16| n.to_le_bytes()[0] ^ 0x5a)
            .collect();
        memory.write_slice(&content, GuestAddress(0x1800)).unwrap();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut gather = TxFrame::default();
        let buffers = [buffer(0x1800, 100), buffer(0x1864, 0x1200 - 100)];
        gather.load(&memory, &buffers).unwrap();
        assert_eq!(gather.head(), &content[..HEAD_BYTES]);
        // The beginning was copied: changing it has no effect.
        memory.write_obj(0_u8, GuestAddress(0x1800)).unwrap();
        assert_eq!(gather.send(ours.as_fd()).unwrap(), 0x1200);
        let mut received = vec![0; 0x2000];
        assert_eq!(theirs.recv(&mut received).unwrap(), 0x1200);
        assert_eq!(received[..0x1200], content);
    }

    #[test]
    fn frame_outside_memory_or_too_long_is_refused() {
        let memory = memory();
        let mut gather = TxFrame::default();
        for outside in [
            buffer(0, 64),
            buffer(u64::MAX - 8, 64),
            buffer(0x21ff0, 0x400),
        ] {
            assert_eq!(gather.load(&memory, &[outside]), Err(FrameFault::Outside));
        }
        let long = [buffer(0x2000, 40_000), buffer(0x2000, 40_000)];
        assert_eq!(gather.load(&memory, &long), Err(FrameFault::TooLong));
        let many = vec![buffer(0x2000, 2); 2000];
        assert_eq!(gather.load(&memory, &many), Err(FrameFault::TooManyPieces));
        assert!(gather.load(&memory, &[]).is_ok());
        assert_eq!(gather.len_bytes(), 0);
    }
}
