// SPDX-License-Identifier: Apache-2.0
//! An open file description that no process's descriptor table holds: it waits in the queue of a
//! socket pair. When a process closes a descriptor of a file, or exits with one, the file system
//! flushes the file (FUSE, NFS), which blocks while its storage does not answer. The kernel does
//! not flush a description that it drops from a socket's queue.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

/// Both ends of the socket pair.
#[derive(Debug)]
pub struct Parked {
    sender: OwnedFd,
    receiver: OwnedFd,
}

impl Parked {
    /// An empty one. A copy of this process can fill it, too.
    pub fn empty() -> nix::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (sender, receiver) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok(Self { sender, receiver })
    }

    /// Parks a descriptor in an empty one; the caller closes its own.
    pub fn park(&self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        let rights = [ControlMessage::ScmRights(&[fd.as_raw_fd()])];
        let bytes = [std::io::IoSlice::new(b"p")];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = sendmsg::<()>(self.sender.as_raw_fd(), &bytes, &rights, flags, None);
        sent.map(drop)
    }

    /// Takes the descriptor out.
    pub fn take(&self) -> nix::Result<OwnedFd> {
        self.receive(MsgFlags::empty())
    }

    /// Another descriptor of the same file description, which stays parked. Only for a process that
    /// may block when it closes the descriptor.
    pub fn copy(&self) -> nix::Result<OwnedFd> {
        self.receive(MsgFlags::MSG_PEEK)
    }

    fn receive(&self, flags: MsgFlags) -> nix::Result<OwnedFd> {
        let flags = flags | MsgFlags::MSG_DONTWAIT;
        let receiver = self.receiver.as_fd();
        let (_, fd) = ipc::control::receive_with_one(receiver, &mut [0], flags)?;
        fd.ok_or(Errno::EBADF)
    }

    /// Both ends of the socket pair: a process needs them to take or copy what is parked.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.sender.as_fd(), self.receiver.as_fd()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::fstat;

    #[test]
    fn file_parked_is_the_same_however_often_it_is_copied_until_it_is_taken() {
        let parked = Parked::empty().unwrap();
        assert_eq!(parked.copy().unwrap_err(), Errno::EAGAIN);
        let file = tempfile::tempfile().unwrap();
        parked.park(file.as_fd()).unwrap();
        let inode = fstat(&file).unwrap().st_ino;
        drop(file);
        for fd in [parked.copy(), parked.copy(), parked.take()] {
            assert_eq!(fstat(fd.unwrap()).unwrap().st_ino, inode);
        }
        assert_eq!(parked.take().unwrap_err(), Errno::EAGAIN);
    }
}
