// SPDX-License-Identifier: Apache-2.0
//! One whole request of a frontend: header, payload and descriptors (vhost-user specification,
//! Message Specification).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use ipc::control::receive_with_several;
use nix::sys::socket::MsgFlags;

use super::PAYLOAD_MAX_BYTES;

/// Request, flags and size, each of four bytes.
const HEADER_BYTES: usize = 12;
/// The flags: protocol version; this is a reply; the frontend needs a reply.
pub(super) const VERSION: u32 = 1;
pub(super) const REPLY: u32 = 1 << 2;
pub(super) const NEED_REPLY: u32 = 1 << 3;
pub(super) const SET_FEATURES: u32 = 2;
pub(super) const SET_VRING_ENABLE: u32 = 18;

/// A request as received.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Request {
    /// Receives the next request; `None` if the frontend has hung up.
    pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let mut request = Self {
            bytes: vec![0; HEADER_BYTES],
            descriptors: Vec::new(),
        };
        if !request.fill(socket, 0)? {
            return Ok(None);
        }
        let size = usize::try_from(request.word(8)).unwrap_or(usize::MAX);
        if size > PAYLOAD_MAX_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.bytes.resize(HEADER_BYTES + size, 0);
        let whole = request.fill(socket, HEADER_BYTES)?;
        Ok(whole.then_some(request))
    }

    /// Receives the bytes from `start` to the end; false if the frontend has hung up.
    fn fill(&mut self, socket: BorrowedFd<'_>, start: usize) -> io::Result<bool> {
        let mut filled = start;
        while let Some(room @ [_, ..]) = self.bytes.get_mut(filled..) {
            let (count, descriptors) = receive_with_several(socket, room, MsgFlags::empty())?;
            if count == 0 {
                return Ok(false);
            }
            filled += count;
            self.descriptors.extend(descriptors);
        }
        Ok(true)
    }

    /// The request type.
    pub(super) fn code(&self) -> u32 {
        self.word(0)
    }

    fn word(&self, offset: usize) -> u32 {
        let bytes = self.bytes.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.copied().map_or(0, u32::from_le_bytes)
    }

    /// The features, if this is SET_FEATURES.
    pub(super) fn features(&self) -> Option<u64> {
        let bytes = self.bytes.get(HEADER_BYTES..).and_then(<[u8]>::first_chunk);
        let features = bytes.copied().map(u64::from_le_bytes);
        features.filter(|_| self.code() == SET_FEATURES)
    }

    pub(super) fn enables_a_ring(&self) -> bool {
        self.code() == SET_VRING_ENABLE
    }

    /// The reply that acknowledges the request, if it needs one. Clears the flag.
    pub(super) fn take_answer(&mut self) -> Option<Vec<u8>> {
        let flags = self.word(4);
        if flags & NEED_REPLY == 0 {
            return None;
        }
        let quiet = (flags & !NEED_REPLY).to_le_bytes();
        self.bytes.get_mut(4..8)?.copy_from_slice(&quiet);
        let header = [self.code(), VERSION | REPLY, 8].map(u32::to_le_bytes);
        Some([header.as_flattened(), &0_u64.to_le_bytes()].concat())
    }
}
