// SPDX-License-Identifier: Apache-2.0
//! Receiving from a socket whose peer may attach descriptors (SCM_RIGHTS).

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg, recvmsg};

/// Receives once: the number of bytes, and the first descriptor attached. The control buffer is
/// rounded up to a whole word and may hold a second descriptor, which is closed here, so the
/// caller's seccomp filter must allow close(2); the kernel closes all others.
pub fn receive_with_one(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: MsgFlags,
) -> nix::Result<(usize, Option<OwnedFd>)> {
    let room = nix::cmsg_space!([RawFd; 1]);
    let (count, descriptors) = receive(socket, bytes, room, flags)?;
    Ok((count, descriptors.into_iter().next()))
}

/// Receives once: the number of bytes, and the descriptors attached, at most eight.
pub fn receive_with_several(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: MsgFlags,
) -> nix::Result<(usize, Vec<OwnedFd>)> {
    receive(socket, bytes, nix::cmsg_space!([RawFd; 8]), flags)
}

/// Receives once: the number of bytes, and the descriptors attached, as many as a message can have
/// (SCM_MAX_FD).
pub fn receive_with_all(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    flags: MsgFlags,
) -> nix::Result<(usize, Vec<OwnedFd>)> {
    receive(socket, bytes, nix::cmsg_space!([RawFd; 253]), flags)
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

/// Takes ownership of the descriptors attached to a message.
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
    // SAFETY: the kernel has just installed these descriptors for this message; nothing else in
    // this process owns their numbers.
    rights
        .flatten()
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use nix::sys::socket::{
        AddressFamily, ControlMessage, SockFlag, SockType, sendmsg, socketpair,
    };
    use nix::sys::stat::fstat;

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    /// `count` files; the message that brings them through the socket.
    fn send(socket: &OwnedFd, bytes: &[u8], count: usize) -> Vec<OwnedFd> {
        let files = (0..count).map(|_| tempfile::tempfile().unwrap().into());
        let files: Vec<OwnedFd> = files.collect();
        let numbers: Vec<RawFd> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let parts = [IoSlice::new(bytes)];
        sendmsg::<()>(socket.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
        files
    }

    fn inode(fd: &OwnedFd) -> u64 {
        fstat(fd).unwrap().st_ino
    }

    fn is_close_on_exec(fd: &OwnedFd) -> bool {
        let flags = fcntl(fd, FcntlArg::F_GETFD).unwrap();
        FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
    }

    #[test]
    fn descriptors_are_received_in_order_and_no_program_inherits_them() {
        let (a, b) = pair();
        let files = send(&a, b"abc", 8);
        let mut bytes = [0; 8];
        let (len, received) =
            receive_with_several(b.as_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        assert_eq!((len, &bytes[..3]), (3, &b"abc"[..]));
        let inodes = |fds: &[OwnedFd]| fds.iter().map(inode).collect::<Vec<_>>();
        assert_eq!(inodes(&received), inodes(&files));
        assert!(received.iter().all(is_close_on_exec));
    }

    #[test]
    fn descriptors_of_the_largest_message_are_all_received() {
        let (a, b) = pair();
        let files = send(&a, b"abc", 253);
        let mut bytes = [0; 8];
        let (_, received) = receive_with_all(b.as_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        assert_eq!(received.len(), files.len());
    }

    #[test]
    fn descriptor_is_received_alone_and_no_program_inherits_it() {
        let (a, b) = pair();
        let files = send(&a, b"abc", 2);
        let mut bytes = [0; 8];
        let (len, received) = receive_with_one(b.as_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        let received = received.unwrap();
        assert_eq!((len, inode(&received)), (3, inode(&files[0])));
        assert!(is_close_on_exec(&received));
    }

    #[test]
    fn message_longer_than_its_room_has_its_length_if_that_is_asked_for() {
        let (a, b) = pair();
        send(&a, &[7; 12], 0);
        let mut bytes = [0; 8];
        let (len, received) =
            receive_with_several(b.as_fd(), &mut bytes, MsgFlags::MSG_TRUNC).unwrap();
        assert_eq!((len, received.len(), bytes), (12, 0, [7; 8]));
    }
}
