// SPDX-License-Identifier: Apache-2.0
//! Makes a connection between a backend and a vmm, neither of which can make one.

use std::os::fd::{AsRawFd, OwnedFd};

use host::socket::{connect_by, stream_socket};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockname, listen, socketpair,
};

/// The two ends.
#[derive(Debug)]
pub(crate) struct SocketPair {
    /// A listening socket with one pending connection and room for no other.
    pub(crate) listener: OwnedFd,
    /// The other end of that connection.
    pub(crate) stream: OwnedFd,
}

/// Makes a listener and connects to it. The kernel picks its name, which is known in this network
/// namespace only, and no other process is in it.
pub(crate) fn arrange() -> nix::Result<SocketPair> {
    let listener = stream_socket(SockFlag::empty())?;
    bind(listener.as_raw_fd(), &UnixAddr::new_unnamed())?;
    listen(&listener, Backlog::new(1)?)?;
    let stream = connect_by(&getsockname(listener.as_raw_fd())?)?;
    Ok(SocketPair { listener, stream })
}

/// One end of a connection whose other end is closed, as if the backend had gone.
pub(crate) fn nowhere() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::Stream, None, flags).map(|(stream, _)| stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn meeting_connects_two_ends() {
        for _ in 0..2 {
            let pair = arrange().unwrap();
            UnixStream::from(pair.stream).write_all(b"hi").unwrap();
            let (mut other, _) = UnixListener::from(pair.listener).accept().unwrap();
            let mut text = String::new();
            other.read_to_string(&mut text).unwrap();
            assert_eq!(text, "hi");
        }
    }
}
