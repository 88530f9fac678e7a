// SPDX-License-Identifier: Apache-2.0
//! Receiving from a socket whose peer may send descriptors along (SCM_RIGHTS).

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
    let room = nix::cmsg_space!([RawFd; 1]);
    let (count, descriptors) = receive(socket, bytes, room, flags)?;
    Ok((count, descriptors.into_iter().next()))
}

/// Receives once: how many bytes, and the descriptors that came with them, at most eight.
pub fn receive_with_several(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: MsgFlags,
) -> nix::Result<(usize, Vec<OwnedFd>)> {
    receive(socket, bytes, nix::cmsg_space!([RawFd; 8]), flags)
}

fn receive(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    mut room: Vec<u8>,
    flags: MsgFlags,
) -> nix::Result<(usize, Vec<OwnedFd>)> {
    let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut parts = [IoSliceMut::new(bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
    Ok((message.bytes, descriptors_of(&message)))
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
