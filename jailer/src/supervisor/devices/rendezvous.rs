// SPDX-License-Identifier: Apache-2.0
//! How a backend and a vmm get two ends of one connection that neither of them can make.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect as connect_to, listen,
    socket,
};
use nix::unistd::{UnlinkatFlags, unlinkat};
use spec::state::BACKEND_SOCKET;

/// The directory in which sockets appear for a moment: nobody but us and root can reach into it.
#[derive(Debug)]
pub(crate) struct Rendezvous(File);

/// The two ends.
#[derive(Debug)]
pub(crate) struct Meeting {
    /// A socket that listens, with one connection waiting in it and no path that leads to it.
    pub(crate) listener: OwnedFd,
    /// The other end of that connection.
    pub(crate) stream: OwnedFd,
}

impl Rendezvous {
    /// Takes the VM's state directory.
    pub(crate) fn new(dir: File) -> Self {
        Self(dir)
    }

    /// Makes a listener and connects to it.
    pub(crate) fn arrange(&self) -> nix::Result<Meeting> {
        // Through the descriptor: a path of any length fits into a socket's address this way.
        let dir = PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        let path = dir.join(BACKEND_SOCKET);
        let listener = stream_socket(SockFlag::empty())?;
        bind(listener.as_raw_fd(), &UnixAddr::new(&path)?)?;
        let stream = listen(&listener, Backlog::new(1)?).and_then(|()| connect(&path));
        unlinkat(self.0.as_fd(), BACKEND_SOCKET, UnlinkatFlags::NoRemoveDir)?;
        Ok(Meeting {
            listener,
            stream: stream?,
        })
    }
}

/// Connects to a socket, without ever waiting for whoever listens there.
pub(crate) fn connect(path: &Path) -> nix::Result<OwnedFd> {
    let stream = stream_socket(SockFlag::SOCK_NONBLOCK)?;
    let address = UnixAddr::new(path)?;
    loop {
        match connect_to(stream.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            outcome => return outcome.map(|()| stream),
        }
    }
}

fn stream_socket(flags: SockFlag) -> nix::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn meeting_connects_two_ends_and_leaves_no_path() {
        let dir = tempfile::tempdir().unwrap();
        let rendezvous = Rendezvous::new(File::open(dir.path()).unwrap());
        for _ in 0..2 {
            let meeting = rendezvous.arrange().unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
            UnixStream::from(meeting.stream).write_all(b"hi").unwrap();
            let (mut other, _) = UnixListener::from(meeting.listener).accept().unwrap();
            let mut text = String::new();
            other.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hi");
        }
    }

    #[test]
    fn listener_that_accepts_nobody_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full");
        let listener = stream_socket(SockFlag::empty()).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let streams: Vec<_> = (0..8).map(|_| connect(&path)).collect();
        assert!(
            streams
                .iter()
                .any(|s| s.as_ref().err() == Some(&Errno::EAGAIN))
        );
    }
}
