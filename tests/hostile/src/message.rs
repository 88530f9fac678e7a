// SPDX-License-Identifier: Apache-2.0
//! The raw vhost-user protocol, from the backend's side: requests as they come, what an honest backend
//! would answer, and what it was given on the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Result, ensure};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The numbers of requests (vhost-user specification, "Front-end message types").
pub(crate) mod code {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const GET_CONFIG: u32 = 24;
}

pub(crate) const HEADER_LEN: usize = 12;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;
/// VERSION_1 and VHOST_USER_F_PROTOCOL_FEATURES.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 30;
/// MQ, REPLY_ACK, CONFIG.
const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 9;
pub(crate) const QUEUES: u16 = 2;
/// The longest request that is believed.
const BODY_MAX: usize = 4096;
/// As many descriptors as Linux takes in one message (SCM_MAX_FD).
pub(crate) const FDS_MAX: usize = 253;

/// A request of the frontend.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) code: u32,
    flags: u32,
    body: Vec<u8>,
}

impl Request {
    fn word(&self, at: usize) -> u64 {
        let bytes = self.body.get(at..at + 8).unwrap_or(&[0; 8]);
        u64::from_ne_bytes(bytes.try_into().unwrap_or([0; 8]))
    }

    fn half(&self, at: usize) -> u32 {
        let bytes = self.body.get(at..at + 4).unwrap_or(&[0; 4]);
        u32::from_ne_bytes(bytes.try_into().unwrap_or([0; 4]))
    }
}

/// Where a queue is.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    pub(crate) size: u16,
    /// Descriptor table, used ring and available ring.
    pub(crate) addresses: [u64; 3],
    pub(crate) kick: Option<File>,
    pub(crate) call: Option<File>,
}

/// Everything a frontend has given away.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Guest address, length, offset in the file, file.
    pub(crate) memory: Vec<(u64, u64, u64, File)>,
    pub(crate) rings: BTreeMap<u32, Ring>,
    pub(crate) enabled: u32,
}

/// The backend's end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    pub(crate) received: Received,
    config: Vec<u8>,
}

impl Peer {
    pub(crate) fn new(stream: UnixStream, config: &[u8]) -> Self {
        Self {
            stream,
            received: Received::default(),
            config: config.to_vec(),
        }
    }

    /// The next request; `None` once the frontend has hung up.
    pub(crate) fn receive(&mut self) -> Result<Option<Request>> {
        let mut header = [0; HEADER_LEN];
        let mut room = nix::cmsg_space!([RawFd; 8]);
        let (len, fds) = {
            let mut parts = [IoSliceMut::new(&mut header)];
            let fd = self.stream.as_raw_fd();
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL;
            match recvmsg::<()>(fd, &mut parts, Some(&mut room), flags) {
                Ok(message) => (message.bytes, owned(message.cmsgs()?)),
                Err(_) => return Ok(None),
            }
        };
        if len < HEADER_LEN {
            return Ok(None);
        }
        let word = |at: usize| {
            let bytes = header.get(at..at + 4).unwrap_or(&[0; 4]);
            u32::from_ne_bytes(bytes.try_into().unwrap_or([0; 4]))
        };
        let body_len = word(8) as usize;
        ensure!(body_len <= BODY_MAX, "a request of {body_len} bytes");
        let mut body = vec![0; body_len];
        if std::io::Read::read_exact(&mut self.stream, &mut body).is_err() {
            return Ok(None);
        }
        let request = Request {
            code: word(0),
            flags: word(4),
            body,
        };
        self.keep(&request, fds);
        Ok(Some(request))
    }

    /// Remembers what came with a request.
    fn keep(&mut self, request: &Request, fds: Vec<OwnedFd>) {
        let ring = self.received.rings.entry(request.half(0));
        match request.code {
            code::SET_MEM_TABLE => {
                let regions = fds.into_iter().enumerate().map(|(index, fd)| {
                    let at = 8 + 32 * index;
                    let [base, len, offset] = [at, at + 8, at + 24].map(|at| request.word(at));
                    (base, len, offset, File::from(fd))
                });
                self.received.memory = regions.collect();
            }
            code::SET_VRING_NUM => {
                ring.or_default().size = u16::try_from(request.half(4)).unwrap_or(0);
            }
            code::SET_VRING_ADDR => {
                ring.or_default().addresses = [8, 16, 24].map(|at| request.word(at));
            }
            code::SET_VRING_KICK => ring.or_default().kick = fds.into_iter().next().map(File::from),
            code::SET_VRING_CALL => ring.or_default().call = fds.into_iter().next().map(File::from),
            code::SET_VRING_ENABLE => self.received.enabled += request.half(4),
            _ => {}
        }
    }

    /// What an honest backend answers, if anything.
    pub(crate) fn answer(&self, request: &Request) -> Option<Vec<u8>> {
        let number = |value: u64| Some(value.to_ne_bytes().to_vec());
        let body = match request.code {
            code::GET_FEATURES => number(FEATURES),
            code::GET_PROTOCOL_FEATURES => number(PROTOCOL),
            code::GET_QUEUE_NUM => number(u64::from(QUEUES)),
            code::GET_CONFIG => {
                let mut body = request.body.get(..12).unwrap_or(&[]).to_vec();
                let len = request.body.len() - body.len();
                body.extend(self.config.iter().chain(std::iter::repeat(&0)).take(len));
                Some(body)
            }
            code::GET_VRING_BASE => Some(request.body.clone()),
            _ if request.flags & NEED_REPLY != 0 => number(0),
            _ => None,
        };
        body.map(|body| message(request.code, VERSION | REPLY, &body))
    }

    /// Sends bytes with so many descriptors. Whether the frontend still listened.
    pub(crate) fn send(&self, bytes: &[u8], fds: usize) -> bool {
        let fds = vec![self.stream.as_raw_fd(); fds.min(FDS_MAX)];
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            flags,
            None,
        )
        .is_ok_and(|sent| sent == bytes.len())
    }

    /// Hangs up, both ways.
    pub(crate) fn hang_up(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// A message as it is on the wire.
pub(crate) fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let words = [code, flags, len].into_iter().flat_map(u32::to_ne_bytes);
    words.chain(body.iter().copied()).collect()
}

/// Takes ownership of the descriptors that came with a message.
#[allow(unsafe_code)]
fn owned<'a>(messages: impl Iterator<Item = ControlMessageOwned> + 'a) -> Vec<OwnedFd> {
    let rights = messages.filter_map(|part| match part {
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
