// SPDX-License-Identifier: Apache-2.0
//! The socket that carries control messages.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::MESSAGE_MAX_BYTES;
use super::rights::receive_with_one;

/// A message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket pair could not be created.
    #[error("cannot make a control socket")]
    Create(#[source] nix::Error),
    /// The message is too long or cannot be written as JSON.
    #[error("a control message cannot be encoded")]
    Encode,
    /// The peer is gone or does not read.
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
    /// The peer sent a malformed message.
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

    /// Sends one message. Never blocks.
    pub fn send<M: Serialize>(&self, message: &M) -> Result<(), ControlError> {
        self.send_all(message, &[])
    }

    /// Sends one message with a descriptor, as [`Self::send`] does.
    pub fn send_with<M: Serialize>(
        &self,
        message: &M,
        fd: BorrowedFd<'_>,
    ) -> Result<(), ControlError> {
        self.send_all(message, &[ControlMessage::ScmRights(&[fd.as_raw_fd()])])
    }

    fn send_all<M: Serialize>(
        &self,
        message: &M,
        rights: &[ControlMessage<'_>],
    ) -> Result<(), ControlError> {
        let text = serde_json::to_vec(message).map_err(|_| ControlError::Encode)?;
        if text.len() > MESSAGE_MAX_BYTES {
            return Err(ControlError::Encode);
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = sendmsg::<()>(
            self.0.as_raw_fd(),
            &[IoSlice::new(&text)],
            rights,
            flags,
            None,
        );
        sent.map(drop).map_err(ControlError::Send)
    }

    /// Waits for the next message; `None` once the peer has closed its end. Takes no descriptors:
    /// the kernel closes those attached.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<Option<M>, ControlError> {
        let mut text = [0; MESSAGE_MAX_BYTES];
        let len = retry(|| recv(self.0.as_raw_fd(), &mut text, MsgFlags::MSG_TRUNC))?;
        decode(&text, len)
    }

    /// Waits for the next message of a peer that may attach a descriptor; `None` once the peer has
    /// closed its end.
    pub fn receive_with<M: DeserializeOwned>(
        &self,
    ) -> Result<Option<(M, Option<OwnedFd>)>, ControlError> {
        let mut text = [0; MESSAGE_MAX_BYTES];
        let (len, fd) = retry(|| receive_with_one(self.as_fd(), &mut text, MsgFlags::MSG_TRUNC))?;
        let message: Option<M> = decode(&text, len)?;
        Ok(message.map(|message| (message, fd)))
    }
}

/// Receives once, and retries when a signal interrupts. If the peer closed its end with messages of
/// ours unread, the kernel returns ECONNRESET once before it delivers what the peer had sent, which
/// may be its last message.
fn retry<T>(mut receive: impl FnMut() -> nix::Result<T>) -> Result<T, ControlError> {
    loop {
        match receive() {
            Err(nix::Error::EINTR | nix::Error::ECONNRESET) => {}
            outcome => return outcome.map_err(ControlError::Receive),
        }
    }
}

/// Decodes a message of `len` bytes. `text` holds as much of it as there was room for.
fn decode<M: DeserializeOwned>(text: &[u8], len: usize) -> Result<Option<M>, ControlError> {
    match text.get(..len) {
        None => Err(ControlError::TooLong(len)),
        Some([]) => Ok(None),
        Some(text) => serde_json::from_slice(text)
            .map(Some)
            .map_err(ControlError::Malformed),
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
    use crate::control::{About, Ending, Failure, FromVmm, ToDevice, ToVmm};
    use nix::sys::socket::send;

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
    fn last_words_of_a_peer_that_left_messages_unread_are_received() {
        for with_descriptors in [false, true] {
            let (a, b) = Channel::pair().unwrap();
            let receive = || match with_descriptors {
                false => b.receive::<FromVmm>().unwrap(),
                true => b.receive_with().unwrap().map(|(message, _)| message),
            };
            b.send(&ToVmm::Pause).unwrap();
            a.send(&FromVmm::Paused).unwrap();
            a.send(&FromVmm::Ended(Ending::Reboot)).unwrap();
            drop(a);
            assert_eq!(receive(), Some(FromVmm::Paused));
            assert_eq!(receive(), Some(FromVmm::Ended(Ending::Reboot)));
            assert_eq!(receive(), None);
            assert_eq!(receive(), None);
        }
    }

    #[test]
    fn message_with_a_descriptor_brings_it_and_one_without_brings_none() {
        let (a, b) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let attach = ToVmm::Device(crate::slot::DeviceSlot::new(3).unwrap(), ToDevice::Attach);
        a.send_with(&attach, file.as_fd()).unwrap();
        a.send(&ToVmm::Pause).unwrap();
        let (message, fd) = b.receive_with::<ToVmm>().unwrap().unwrap();
        assert_eq!(message, attach);
        let ino = |fd: &OwnedFd| nix::sys::stat::fstat(fd).unwrap().st_ino;
        assert_eq!(ino(&fd.unwrap()), ino(&file.into()));
        assert!(matches!(b.receive_with(), Ok(Some((ToVmm::Pause, None)))));
    }

    #[test]
    fn descriptor_sent_to_one_who_takes_none_is_closed() {
        let (a, b) = Channel::pair().unwrap();
        let (kept, sent) = Channel::pair().unwrap();
        a.send_with(&FromVmm::Started, sent.as_fd()).unwrap();
        drop(sent);
        assert_eq!(b.receive().unwrap(), Some(FromVmm::Started));
        assert_eq!(kept.receive::<ToVmm>().unwrap(), None);
    }

    #[test]
    fn peer_gone_reads_as_none() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        assert_eq!(b.receive::<ToVmm>().unwrap(), None);
    }

    #[test]
    fn peer_gone_with_messages_unread_reads_as_none() {
        let (a, b) = Channel::pair().unwrap();
        b.send(&FromVmm::Started).unwrap();
        drop(a);
        assert_eq!(b.receive::<ToVmm>().unwrap(), None);
        assert_eq!(b.receive::<ToVmm>().unwrap(), None);
    }

    #[test]
    fn receive_that_is_interrupted_is_begun_again_and_one_that_fails_is_not() {
        let mut outcomes = [Err(nix::Error::EINTR), Err(nix::Error::EINTR), Ok(5)].into_iter();
        assert!(matches!(retry(|| outcomes.next().unwrap()), Ok(5)));
        let mut outcomes = [Err(nix::Error::ENOMEM), Ok(5)].into_iter();
        assert!(matches!(
            retry(|| outcomes.next().unwrap()),
            Err(ControlError::Receive(nix::Error::ENOMEM))
        ));
    }

    #[test]
    fn message_as_long_as_one_may_be_is_sent_and_a_longer_one_refused() {
        let (a, b) = Channel::pair().unwrap();
        let longest = "x".repeat(MESSAGE_MAX_BYTES - 2); // and two quotation marks
        a.send(&longest).unwrap();
        assert_eq!(b.receive().unwrap(), Some(longest.clone()));
        a.send(&longest).unwrap();
        let (received, _) = b.receive_with::<String>().unwrap().unwrap();
        assert_eq!(longest, received);
        let refused = a.send(&format!("{longest}x"));
        assert!(matches!(refused, Err(ControlError::Encode)));
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
        send_raw(&a, &[b'x'; MESSAGE_MAX_BYTES + 1]);
        assert!(matches!(
            b.receive_with::<ToVmm>(),
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
