// SPDX-License-Identifier: Apache-2.0
//! A client that follows the VM's events: an answer without an end, one JSON document on each line,
//! in chunks (RFC 9112, 7.1). The supervisor never waits for it, and drops a client that does not
//! keep up.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::poll::PollFlags;
use spec::api::Event;

use super::connection::STEP_NS;

/// The most bytes that are kept for a client that reads slowly, beside those in its socket. All
/// events of the event log fit.
const BACKLOG_MAX_BYTES: usize = 256 << 10;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
                    Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A client that follows the events.
#[derive(Debug)]
pub(crate) struct Follower {
    stream: UnixStream,
    backlog: Vec<u8>,
    /// The number of the last event that it was sent.
    last: u64,
    /// When it is dropped, unless it reads something before.
    deadline_ns: Option<u64>,
    over: bool,
}

impl Follower {
    /// Starts the answer.
    pub(crate) fn new(stream: UnixStream, now_ns: u64) -> Self {
        let mut follower = Self {
            stream,
            backlog: HEAD.into(),
            last: 0,
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

    /// Sends the events that it has not got yet.
    pub(crate) fn give<'a>(&mut self, events: impl Iterator<Item = &'a Event>, now_ns: u64) {
        let last = self.last;
        for event in events.filter(|event| event.number > last) {
            self.last = event.number;
            let Ok(line) = serde_json::to_string(event) else {
                continue;
            };
            let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
            if self.backlog.len() + chunk.len() > BACKLOG_MAX_BYTES {
                self.over = true;
                return;
            }
            self.backlog.extend_from_slice(chunk.as_bytes());
        }
        self.send(now_ns);
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
