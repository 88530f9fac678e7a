// SPDX-License-Identifier: Apache-2.0
//! A client that follows the VM's events, one JSON document on each line, or what the guest writes
//! to its console: an answer without an end, in chunks (RFC 9112, 7.1). The supervisor never waits
//! for it, and drops a client that does not keep up.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;

use super::connection::STEP_NS;
use crate::console::History;
use crate::event_log::EventLog;

/// The most bytes that are kept for a client that reads slowly, beside those in its socket. All
/// events of the event log fit.
const BACKLOG_MAX_BYTES: usize = 256 << 10;

const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What can be followed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    /// The events.
    pub(crate) events: &'a EventLog,
    /// The console's output, if the supervisor gets it.
    pub(crate) console: Option<&'a History>,
}

/// What a client follows, and how far it has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    /// The events behind the one of this number.
    Events(u64),
    /// The console's output from this byte on.
    Console(u64),
}

/// A client that follows something.
#[derive(Debug)]
pub(crate) struct Follower {
    stream: UnixStream,
    backlog: Vec<u8>,
    topic: Topic,
    /// When it is dropped, unless it reads something before.
    deadline_ns: Option<u64>,
    over: bool,
}

impl Follower {
    /// Starts the answer.
    pub(crate) fn new(stream: UnixStream, topic: Topic, now_ns: u64) -> Self {
        let kind = match topic {
            Topic::Events(_) => "application/x-ndjson",
            Topic::Console(_) => "application/octet-stream",
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        let mut follower = Self {
            stream,
            backlog: head.into(),
            topic,
            deadline_ns: None,
            over: false,
        };
        follower.send(now_ns);
        follower
    }

    /// Whether the client can be dropped.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The client's descriptor, and the events to wait for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut events = PollFlags::POLLIN;
        if !self.backlog.is_empty() {
            events |= PollFlags::POLLOUT;
        }
        (self.stream.as_fd(), events)
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        self.deadline_ns
    }

    /// Drops the client if its deadline has passed.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        self.over |= self.deadline_ns.is_some_and(|deadline| deadline <= now_ns);
    }

    /// Handles the descriptor when it is ready.
    pub(crate) fn ready(&mut self, now_ns: u64) {
        // A follower sends nothing more; reading is how its hang-up is noticed.
        let mut chunk = [0; 256];
        match self.stream.read(&mut chunk) {
            Ok(1..) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => self.over = true,
        }
        self.send(now_ns);
    }

    /// Sends what it has not got yet.
    pub(crate) fn give(&mut self, sources: Sources<'_>, now_ns: u64) {
        match self.topic {
            Topic::Events(last) => {
                for event in sources.events.iter().filter(|event| event.number > last) {
                    self.topic = Topic::Events(event.number);
                    if let Ok(line) = serde_json::to_string(event) {
                        self.push((line + "\n").as_bytes());
                    }
                }
            }
            Topic::Console(from) => {
                let Some(console) = sources.console else {
                    return;
                };
                self.topic = Topic::Console(console.end());
                match console.since(from) {
                    Some(output) if output.is_empty() => {}
                    Some(output) => self.push(&output),
                    // Some of what it has not got is lost.
                    None => self.over = true,
                }
            }
        }
        self.send(now_ns);
    }

    /// Adds a chunk to the answer, or drops the client if it is too far behind.
    fn push(&mut self, bytes: &[u8]) {
        let size = format!("{:x}\r\n", bytes.len());
        let len = size.len() + bytes.len() + CHUNK_END.len();
        if self.backlog.len() + len > BACKLOG_MAX_BYTES {
            self.over = true;
            return;
        }
        self.backlog.extend_from_slice(size.as_bytes());
        self.backlog.extend_from_slice(bytes);
        self.backlog.extend_from_slice(CHUNK_END);
    }

    /// The VM has ended: ends the answer, if the client takes the rest of it now.
    pub(crate) fn end(mut self, now_ns: u64) {
        self.backlog.extend_from_slice(LAST_CHUNK);
        self.send(now_ns);
    }

    fn send(&mut self, now_ns: u64) {
        while !self.backlog.is_empty() && !self.over {
            match self.stream.write(&self.backlog) {
                Ok(len) => {
                    self.backlog.drain(..len);
                    self.deadline_ns = None;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.deadline_ns.get_or_insert(now_ns + STEP_NS);
                    return;
                }
                Err(_) => self.over = true,
            }
        }
    }
}
