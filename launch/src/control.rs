// SPDX-License-Identifier: Apache-2.0
//! What the supervisor and a vmm say to each other: JSON messages over one SOCK_SEQPACKET socket.
//!
//! Neither end trusts the other to be sane: a message has a bounded length, descriptors attached to
//! one are never received, and sending never blocks. A vmm whose end of the socket closes ends at
//! once.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The longest message in bytes.
pub const MESSAGE_MAX_BYTES: usize = 4096;

/// What the supervisor asks of a vmm. Ending it is not among them: that is SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToVmm {
    /// Press the power button.
    PowerButton,
    /// Stop every vCPU; answered with [`FromVmm::Paused`].
    Pause,
    /// Let them run again; answered with [`FromVmm::Resumed`].
    Resume,
}

/// What a vmm tells the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVmm {
    /// The guest is about to execute its first instruction.
    Started,
    /// Every vCPU has stopped.
    Paused,
    /// The vCPUs run again.
    Resumed,
    /// The guest ended; the process exits now.
    Ended(Ending),
    /// The vmm cannot go on; the process exits now.
    Failed(Failure),
}

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It powered itself off.
    PowerOff,
    /// It asked for a reset.
    Reboot,
    /// Its kernel panicked, and said so.
    Panic,
    /// A triple fault, or a state KVM cannot run.
    Crash,
}

/// Why a vmm cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The part of the spec that is at fault, if one is.
    pub about: Option<About>,
    /// One line: what went wrong, with its causes.
    pub reason: String,
}

/// A part of the spec that only the vmm can judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum About {
    /// `kernel`
    Kernel,
    /// `initrd`
    Initrd,
    /// `cmdline`
    Cmdline,
    /// `mem`
    Mem,
    /// `cpus`
    Cpus,
    /// /dev/kvm
    Kvm,
}

/// A message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket pair could not be made.
    #[error("cannot make a control socket")]
    Create(#[source] nix::Error),
    /// The message is too long or cannot be written as JSON.
    #[error("a control message cannot be encoded")]
    Encode,
    /// The peer is gone, or does not read.
    #[error("cannot send a control message")]
    Send(#[source] nix::Error),
    /// Reading failed.
    #[error("cannot receive a control message")]
    Receive(#[source] nix::Error),
    /// The peer sent more than a message may hold.
    #[error(
        "a control message of {0} bytes was received, at most {MESSAGE_MAX_BYTES} are expected"
    )]
    TooLong(usize),
    /// The peer sent something that is no message.
    #[error("a malformed control message was received")]
    Malformed(#[source] serde_json::Error),
}

/// One end of a control socket.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two connected ends, both close-on-exec.
    pub fn pair() -> Result<(Self, Self), ControlError> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        pair.map(|(a, b)| (Self(a), Self(b)))
            .map_err(ControlError::Create)
    }

    /// Sends one message, without ever waiting for the peer to read.
    pub fn send<M: Serialize>(&self, message: &M) -> Result<(), ControlError> {
        let text = serde_json::to_vec(message).map_err(|_| ControlError::Encode)?;
        if text.len() > MESSAGE_MAX_BYTES {
            return Err(ControlError::Encode);
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.0.as_raw_fd(), &text, flags)
            .map(drop)
            .map_err(ControlError::Send)
    }

    /// Waits for the next message; `None` once the peer has closed its end.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<Option<M>, ControlError> {
        let mut text = [0; MESSAGE_MAX_BYTES];
        // recv() has no room for control data: the kernel closes descriptors that come along.
        let len = loop {
            match recv(self.0.as_raw_fd(), &mut text, MsgFlags::MSG_TRUNC) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECONNRESET) => return Ok(None),
                Err(source) => return Err(ControlError::Receive(source)),
                Ok(len) => break len,
            }
        };
        match text.get(..len) {
            None => Err(ControlError::TooLong(len)),
            Some([]) => Ok(None),
            Some(text) => serde_json::from_slice(text)
                .map(Some)
                .map_err(ControlError::Malformed),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send_raw(channel: &Channel, bytes: &[u8]) {
        send(channel.0.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
    }

    #[test]
    fn message_sent_is_received_equal() {
        let (a, b) = Channel::pair().unwrap();
        let failure = Failure {
            about: Some(About::Kernel),
            reason: "truncated".into(),
        };
        for message in [
            FromVmm::Started,
            FromVmm::Ended(Ending::Reboot),
            FromVmm::Failed(failure),
        ] {
            a.send(&message).unwrap();
            assert_eq!(b.receive().unwrap(), Some(message));
        }
    }

    #[test]
    fn peer_gone_reads_as_none() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        assert_eq!(b.receive::<ToVmm>().unwrap(), None);
    }

    #[test]
    fn message_malformed_or_too_long_is_an_error() {
        let (a, b) = Channel::pair().unwrap();
        send_raw(&a, b"\"Dance\"");
        assert!(matches!(
            b.receive::<ToVmm>(),
            Err(ControlError::Malformed(_))
        ));
        send_raw(&a, &[b'x'; MESSAGE_MAX_BYTES + 1]);
        assert!(matches!(
            b.receive::<ToVmm>(),
            Err(ControlError::TooLong(_))
        ));
    }

    #[test]
    fn peer_that_never_reads_does_not_block_the_sender() {
        let (a, _b) = Channel::pair().unwrap();
        let outcome = (0..100_000).find_map(|_| a.send(&ToVmm::Pause).err());
        assert!(matches!(
            outcome,
            Some(ControlError::Send(nix::Error::EAGAIN))
        ));
    }
}
