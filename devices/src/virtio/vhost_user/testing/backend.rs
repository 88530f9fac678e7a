// SPDX-License-Identifier: Apache-2.0
//! A backend in the same process that does as it should, or does one thing wrong at one message.

#![allow(clippy::cast_possible_truncation)] // is meant wherever it happens here

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vhost::vhost_user::message::FrontendReq;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::virtio::features::{RING_EVENT_IDX, VERSION_1, VHOST_USER_PROTOCOL};

pub(in crate::virtio::vhost_user) const FEATURES: u64 = VERSION_1 | RING_EVENT_IDX | 0b11;
pub(in crate::virtio::vhost_user) const CONFIG: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// MQ, REPLY_ACK, CONFIG
pub(in crate::virtio::vhost_user) const PROTOCOL: u64 = 1 | 1 << 3 | 1 << 9;
const REPLY_ACK: u64 = 1 << 3;

/// What a backend does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::virtio::vhost_user) enum Mischief {
    HangUp,
    HangUpInTheAnswer,
    Silent,
    SilentInTheAnswer,
    Descriptors,
    WrongCode,
    WrongVersion,
    NotAReply,
    TooLong,
    TooShort,
    Endless,
    Refuse,
    Twice,
}

pub(in crate::virtio::vhost_user) const ALL: [Mischief; 13] = [
    Mischief::HangUp,
    Mischief::HangUpInTheAnswer,
    Mischief::Silent,
    Mischief::SilentInTheAnswer,
    Mischief::Descriptors,
    Mischief::WrongCode,
    Mischief::WrongVersion,
    Mischief::NotAReply,
    Mischief::TooLong,
    Mischief::TooShort,
    Mischief::Endless,
    Mischief::Refuse,
    Mischief::Twice,
];

/// A message as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::virtio::vhost_user) struct Message {
    pub(in crate::virtio::vhost_user) code: u32,
    pub(in crate::virtio::vhost_user) flags: u32,
    pub(in crate::virtio::vhost_user) body: Vec<u8>,
    pub(in crate::virtio::vhost_user) with_fd: bool,
}

impl Message {
    pub(in crate::virtio::vhost_user) fn word(&self, index: usize) -> u32 {
        u32::from_ne_bytes(self.body[4 * index..4 * index + 4].try_into().unwrap())
    }
    pub(in crate::virtio::vhost_user) fn is(&self, code: FrontendReq) -> bool {
        self.code == u32::from(code)
    }
}

#[derive(Debug, Clone)]
pub(in crate::virtio::vhost_user) struct Backend {
    pub(in crate::virtio::vhost_user) features: u64,
    pub(in crate::virtio::vhost_user) protocol: u64,
    pub(in crate::virtio::vhost_user) queues: u64,
    pub(in crate::virtio::vhost_user) config: Vec<u8>,
    /// Where each queue stops.
    pub(in crate::virtio::vhost_user) base: u32,
    pub(in crate::virtio::vhost_user) mischief: Option<(usize, Mischief)>,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            features: FEATURES | VHOST_USER_PROTOCOL,
            protocol: PROTOCOL,
            queues: 2,
            config: CONFIG.to_vec(),
            base: 0,
            mischief: None,
        }
    }
}

/// A backend at work.
pub(in crate::virtio::vhost_user) struct AtWork {
    thread: JoinHandle<()>,
    messages: Arc<Mutex<Vec<Message>>>,
    pub(in crate::virtio::vhost_user) kicks: Arc<Mutex<BTreeMap<u32, File>>>,
}

impl AtWork {
    pub(in crate::virtio::vhost_user) fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap().clone()
    }
    /// Waits until the frontend has hung up.
    pub(in crate::virtio::vhost_user) fn join(self) -> Vec<Message> {
        self.thread.join().unwrap();
        self.messages.lock().unwrap().clone()
    }
}

impl Backend {
    pub(in crate::virtio::vhost_user) fn bad(at: usize, mischief: Mischief) -> Self {
        Self {
            mischief: Some((at, mischief)),
            ..Self::default()
        }
    }

    /// Starts working; returns the frontend's end of the stream and another of its own.
    pub(in crate::virtio::vhost_user) fn start(self) -> (OwnedFd, UnixStream, AtWork) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (control, messages) = (ours.try_clone().unwrap(), Arc::<Mutex<_>>::default());
        let kicks = Arc::<Mutex<_>>::default();
        let at_work = (Arc::clone(&messages), Arc::clone(&kicks));
        let thread = std::thread::spawn(move || self.work(ours, &at_work.0, &at_work.1));
        let at_work = AtWork {
            thread,
            messages,
            kicks,
        };
        (theirs.into(), control, at_work)
    }

    fn work(
        self,
        mut stream: UnixStream,
        messages: &Mutex<Vec<Message>>,
        kicks: &Mutex<BTreeMap<u32, File>>,
    ) {
        for number in 0.. {
            let Some((message, fd)) = receive(&mut stream) else {
                return;
            };
            messages.lock().unwrap().push(message.clone());
            if let (true, Some(kick)) = (message.is(FrontendReq::SET_VRING_KICK), fd) {
                kicks.lock().unwrap().insert(message.word(0), kick);
            }
            let mischief = self.mischief.filter(|(at, _)| *at == number);
            let answer = self.answer(&message);
            if !send(&mut stream, &message, answer, mischief.map(|(_, m)| m)) {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }

    fn answer(&self, message: &Message) -> Option<Vec<u8>> {
        let get = |value: u64| Some(value.to_ne_bytes().to_vec());
        if message.is(FrontendReq::GET_FEATURES) {
            get(self.features)
        } else if message.is(FrontendReq::GET_PROTOCOL_FEATURES) {
            get(self.protocol)
        } else if message.is(FrontendReq::GET_QUEUE_NUM) {
            get(self.queues)
        } else if message.is(FrontendReq::GET_CONFIG) {
            let mut answer = message.body[..12].to_vec();
            answer.extend(&self.config);
            Some(answer)
        } else if message.is(FrontendReq::GET_VRING_BASE) {
            let mut answer = message.body[..4].to_vec();
            answer.extend(self.base.to_ne_bytes());
            Some(answer)
        } else if message.flags & 8 != 0 && self.protocol & REPLY_ACK != 0 {
            get(0)
        } else {
            None
        }
    }
}

fn receive(stream: &mut UnixStream) -> Option<(Message, Option<File>)> {
    let mut header = [0; 12];
    let (len, fd) = stream.recv_with_fd(&mut header).ok()?;
    if len != 12 {
        return None;
    }
    let word = |i: usize| u32::from_ne_bytes(header[4 * i..4 * i + 4].try_into().unwrap());
    let mut body = vec![0; word(2) as usize];
    stream.read_exact(&mut body).ok()?;
    let message = Message {
        code: word(0),
        flags: word(1),
        body,
        with_fd: fd.is_some(),
    };
    Some((message, fd))
}

/// Answers, in the right way or a wrong one. Says whether to go on.
fn send(
    stream: &mut UnixStream,
    message: &Message,
    answer: Option<Vec<u8>>,
    mischief: Option<Mischief>,
) -> bool {
    let silent = mischief == Some(Mischief::Silent);
    if mischief == Some(Mischief::HangUp) {
        return false;
    }
    // Where no answer is due, the mischief is to send one.
    let mut answer = match (answer, mischief) {
        (None, None) => return true,
        (answer, _) => answer.unwrap_or_default(),
    };
    if silent {
        return true;
    }
    let (mut code, mut flags, mut len) = (message.code, 1 | 4, answer.len() as u32);
    match mischief {
        Some(Mischief::WrongCode) => code += 1,
        Some(Mischief::WrongVersion) => flags = 2 | 4,
        Some(Mischief::NotAReply) => flags = 1,
        Some(Mischief::TooLong) => {
            answer.push(0);
            len += 1;
        }
        Some(Mischief::TooShort) => {
            answer.pop();
            len = answer.len() as u32;
        }
        Some(Mischief::Endless) => len = u32::MAX,
        Some(Mischief::Refuse) => answer.iter_mut().for_each(|byte| *byte = 0xff),
        _ => {}
    }
    let mut reply: Vec<u8> = [code, flags, len]
        .iter()
        .flat_map(|w| w.to_ne_bytes())
        .collect();
    reply.extend(&answer);
    match mischief {
        Some(Mischief::HangUpInTheAnswer) => {
            let _ = stream.write_all(&reply[..reply.len() - 1]);
            false
        }
        Some(Mischief::SilentInTheAnswer) => stream.write_all(&reply[..reply.len() - 1]).is_ok(),
        Some(Mischief::Descriptors) => {
            let fds = [stream.as_raw_fd(); 200];
            stream.send_with_fds(&[&reply[..]], &fds).is_ok()
        }
        Some(Mischief::Twice) => stream.write_all(&reply.repeat(2)).is_ok(),
        _ => stream.write_all(&reply).is_ok(),
    }
}

/// The messages of a code, as their second word: the value told for each queue.
pub(in crate::virtio::vhost_user) fn values(messages: &[Message], code: FrontendReq) -> Vec<u32> {
    let of_code = messages.iter().filter(|message| message.is(code));
    of_code.map(|message| message.word(1)).collect()
}
