// SPDX-License-Identifier: Apache-2.0
//! Receiving from a socket whose peer may send a descriptor along (SCM_RIGHTS).

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, recvmsg};

/// Receives once: how many bytes, and the descriptor that came with them. There is room for one; the
/// kernel closes all others.
pub fn receive_with_one(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: MsgFlags,
) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut room = nix::cmsg_space!([RawFd; 1]);
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
    let descriptor = descriptors_of(&message).into_iter().next();
    Ok((message.bytes, descriptor))
}

/// Takes ownership of the descriptors that came with a message.
#[allow(unsafe_code)]
fn descriptors_of(message: &RecvMsg<'_, '_, ()>) -> Vec<OwnedFd> {
    let rights = message
        .cmsgs()
        .into_iter()
        .flatten()
        .filter_map(|part| match part {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        });
    // SAFETY: the kernel has just installed these descriptors for this message; nobody else knows
    // their numbers.
    rights
        .flatten()
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect()
}
