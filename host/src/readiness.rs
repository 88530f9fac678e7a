// SPDX-License-Identifier: Apache-2.0
//! Hears when a process says that it is ready: the socket behind NOTIFY_SOCKET (sd_notify(3)).

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials,
    bind, getsockname, recvmsg, setsockopt, socket, sockopt::PassCred,
};

/// A socket in the abstract namespace.
#[derive(Debug)]
pub struct Ear {
    socket: OwnedFd,
    address: OsString,
}

impl Ear {
    /// A socket of its own.
    ///
    /// # Errors
    /// The kernel's, when it has none left.
    pub fn new() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&socket, PassCred, &true)?;
        // Without an address, the kernel chooses an unused one.
        bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let address: UnixAddr = getsockname(socket.as_raw_fd())?;
        let name = address.as_abstract().ok_or(Errno::EADDRNOTAVAIL)?;
        let name = std::str::from_utf8(name).map_err(|_| Errno::EADDRNOTAVAIL)?;
        let address = format!("@{name}").into();
        Ok(Self { socket, address })
    }

    /// What NOTIFY_SOCKET must be.
    #[must_use]
    pub fn address(&self) -> &OsString {
        &self.address
    }

    /// Takes a message, if there is one: whether the process `pid` says that it is ready. Every process
    /// can send to an abstract address, so check the credentials, for which the kernel vouches.
    #[must_use]
    pub fn hears_ready(&self, pid: u32) -> bool {
        let mut text = [0; 256];
        let mut ancillary = nix::cmsg_space!(UnixCredentials);
        let mut iov = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<UnixAddr>(fd, &mut iov, Some(&mut ancillary), flags);
        let Ok(message) = message else {
            return false;
        };
        // There is room for credentials only: the kernel closes attached descriptors.
        let Ok(mut controls) = message.cmsgs() else {
            return false;
        };
        let vouched = controls.any(|control| {
            matches!(control, ControlMessageOwned::ScmCredentials(sender)
                if u32::try_from(sender.pid()) == Ok(pid))
        });
        let len = message.bytes;
        let mut lines = text[..len.min(text.len())].split(|&b| b == b'\n');
        vouched && lines.any(|line| line == b"READY=1")
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    #[test]
    fn only_the_process_in_question_is_believed() {
        let ear = Ear::new().unwrap();
        let name = ear.address().to_str().unwrap().strip_prefix('@').unwrap();
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let mouth = UnixDatagram::unbound().unwrap();
        let say = |text: &[u8]| mouth.send_to_addr(text, &address).unwrap();
        let own = std::process::id();
        assert!(!ear.hears_ready(own), "nothing was said");
        say(b"STATUS=x\nREADY=1");
        assert!(ear.hears_ready(own));
        say(b"READY=1");
        assert!(!ear.hears_ready(own + 1), "another process said it");
        say(b"READY=11");
        assert!(!ear.hears_ready(own));
    }
}
