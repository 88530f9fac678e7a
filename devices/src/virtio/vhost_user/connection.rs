// SPDX-License-Identifier: Apache-2.0
//! The connection to a backend: one request at a time, each with a deadline (vhost-user
//! specification, "Message Specification" and "Communication").
//!
//! The vhost crate defines the messages, but its frontend waits for ever, accepts attached
//! descriptors and trusts sizes. This code does not depend on the flags of the socket, receives a
//! reply into a buffer of its exact length, and provides no control buffer, so that the kernel
//! closes attached descriptors before this process owns them.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, recvmsg, sendmsg};
use vhost::vhost_user::message::FrontendReq;

use crate::virtio::eventfd;
use crate::virtio::vhost_user::command_slot::CommandSlot;
use crate::virtio::vhost_user::events::{HostFault, LinkError, PeerFault};

const HEADER_LEN: usize = 12;
const VERSION_MASK: u32 = 0b11;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// The time limit for a backend's reply; a command that makes it pointless ends the wait early.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline<'a> {
    commands: &'a CommandSlot,
    timeout: Duration,
    deadline: Instant,
}

impl<'a> Deadline<'a> {
    /// Waits until `timeout` from now.
    pub(super) fn new(commands: &'a CommandSlot, timeout: Duration) -> Self {
        Self {
            commands,
            timeout,
            deadline: Instant::now() + timeout,
        }
    }

    /// Polls until `is_true`; false at the deadline.
    pub(super) fn wait_until(&self, is_true: impl Fn() -> bool) -> Result<bool, LinkError> {
        while !is_true() {
            if self.commands.interrupts() {
                return Err(LinkError::Interrupted);
            }
            if Instant::now() >= self.deadline {
                return Ok(false);
            }
            let wake = self.commands.wake();
            let mut fds = [PollFd::new(eventfd::borrow(wake), PollFlags::POLLIN)];
            // Check once a millisecond; an interrupted poll only checks earlier.
            let _ = poll(&mut fds, PollTimeout::from(1_u8));
            eventfd::drain(wake);
        }
        Ok(true)
    }

    /// Waits until the socket is readable or writable.
    fn wait(
        &self,
        fd: BorrowedFd,
        event: PollFlags,
        request: FrontendReq,
    ) -> Result<(), LinkError> {
        loop {
            if self.commands.interrupts() {
                return Err(LinkError::Interrupted);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let timeout = self.timeout;
                return Err(PeerFault::Silent { request, timeout }.into());
            }
            // Round up, or the last millisecond would be a busy loop.
            let rounded = left + Duration::from_millis(1);
            let timeout = PollTimeout::try_from(rounded).unwrap_or(PollTimeout::MAX);
            let wake = self.commands.wake();
            let mut fds = [
                PollFd::new(fd, event),
                PollFd::new(eventfd::borrow(wake), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(source) => return Err(HostFault::Socket(source).into()),
            }
            let [socket, pending] = fds;
            if pending.any() == Some(true) {
                // Commands stay in the slot until the current request is complete.
                eventfd::drain(wake);
            }
            // The next read or write reports an error or hang-up.
            if socket.any() == Some(true) {
                return Ok(());
            }
        }
    }
}

/// A request to send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) code: FrontendReq,
    pub(super) body: &'a [u8],
    pub(super) fds: &'a [RawFd],
}

/// A connected stream.
#[derive(Debug)]
pub(super) struct Connection(OwnedFd);

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Connection {
    pub(super) fn new(stream: OwnedFd) -> Self {
        Self(stream)
    }

    /// Sends a request that has no reply.
    pub(super) fn tell(&self, request: Request, deadline: Deadline) -> Result<(), LinkError> {
        self.send(request, VERSION, deadline)
    }

    /// Sends a request that the backend acknowledges with a status: zero for success.
    pub(super) fn set(&self, request: Request, deadline: Deadline) -> Result<(), LinkError> {
        self.send(request, VERSION | NEED_REPLY, deadline)?;
        let mut status = [0; 8];
        self.receive(request.code, &mut status, deadline)?;
        if status == [0; 8] {
            Ok(())
        } else {
            Err(PeerFault::Refused(request.code).into())
        }
    }

    /// Sends a request and receives its reply, of exactly the length of `answer`.
    pub(super) fn get(
        &self,
        request: Request,
        answer: &mut [u8],
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        self.send(request, VERSION, deadline)?;
        self.receive(request.code, answer, deadline)
    }

    fn send(&self, request: Request, flags: u32, deadline: Deadline) -> Result<(), LinkError> {
        let len = u32::try_from(request.body.len()).unwrap_or(u32::MAX);
        let mut message = Vec::with_capacity(HEADER_LEN + request.body.len());
        for word in [u32::from(request.code), flags, len] {
            message.extend(word.to_ne_bytes());
        }
        message.extend(request.body);
        let rights = [ControlMessage::ScmRights(request.fds)];
        let mut control = &rights[..usize::from(!request.fds.is_empty())];
        let mut rest = &message[..];
        while !rest.is_empty() {
            deadline.wait(self.as_fd(), PollFlags::POLLOUT, request.code)?;
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let parts = [IoSlice::new(rest)];
            match sendmsg::<()>(self.0.as_raw_fd(), &parts, control, flags, None) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or(&[]);
                    control = &[];
                }
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => {
                    return Err(PeerFault::Closed.into());
                }
                Err(source) => return Err(HostFault::Socket(source).into()),
            }
        }
        Ok(())
    }

    fn receive(
        &self,
        code: FrontendReq,
        answer: &mut [u8],
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        let mut header = [0; HEADER_LEN];
        self.fill(code, &mut header, deadline)?;
        let mut words = header.chunks_exact(4).map(|word| {
            let bytes = word.try_into().unwrap_or([0; 4]);
            u32::from_ne_bytes(bytes)
        });
        let fields = (words.next(), words.next(), words.next());
        let (Some(request), Some(flags), Some(len)) = fields else {
            return Err(PeerFault::Malformed(code).into());
        };
        let is_reply = flags & VERSION_MASK == VERSION && flags & REPLY != 0;
        if !is_reply || request != u32::from(code) || len as usize != answer.len() {
            return Err(PeerFault::Malformed(code).into());
        }
        self.fill(code, answer, deadline)
    }

    /// Receives exactly the length of `buffer`.
    fn fill(
        &self,
        code: FrontendReq,
        buffer: &mut [u8],
        deadline: Deadline,
    ) -> Result<(), LinkError> {
        let mut filled = 0;
        while filled < buffer.len() {
            deadline.wait(self.as_fd(), PollFlags::POLLIN, code)?;
            let mut parts = [IoSliceMut::new(&mut buffer[filled..])];
            let fd = self.0.as_raw_fd();
            match recvmsg::<()>(fd, &mut parts, None, MsgFlags::MSG_DONTWAIT) {
                Ok(message) if message.flags.contains(MsgFlags::MSG_CTRUNC) => {
                    return Err(PeerFault::Descriptors(code).into());
                }
                Ok(message) if message.bytes == 0 => return Err(PeerFault::Closed.into()),
                Ok(message) => filled += message.bytes,
                Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
                Err(nix::Error::ECONNRESET) => return Err(PeerFault::Closed.into()),
                Err(source) => return Err(HostFault::Socket(source).into()),
            }
        }
        Ok(())
    }

    /// The fault of a connection that became readable while no reply was due.
    pub(super) fn unasked(&self) -> LinkError {
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, None, MsgFlags::MSG_DONTWAIT) {
            Ok(message) if message.bytes == 0 => PeerFault::Closed.into(),
            Ok(_) | Err(nix::Error::EAGAIN | nix::Error::EINTR) => PeerFault::Unasked.into(),
            Err(nix::Error::ECONNRESET) => PeerFault::Closed.into(),
            Err(source) => HostFault::Socket(source).into(),
        }
    }
}

#[cfg(test)]
mod tests;
