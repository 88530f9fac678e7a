// SPDX-License-Identifier: Apache-2.0
//! Stream sockets, connected without blocking.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_to, socket,
};

/// Connects to a socket without waiting for its listener.
pub fn connect(path: &Path) -> nix::Result<OwnedFd> {
    connect_by(&UnixAddr::new(path)?)
}

/// As [`connect`], by address.
pub fn connect_by(address: &UnixAddr) -> nix::Result<OwnedFd> {
    let stream = stream_socket(SockFlag::SOCK_NONBLOCK)?;
    loop {
        match connect_to(stream.as_raw_fd(), address) {
            Err(Errno::EINTR) => {}
            outcome => return outcome.map(|()| stream),
        }
    }
}

/// A stream socket with close-on-exec.
pub fn stream_socket(flags: SockFlag) -> nix::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Stream, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};

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
