// SPDX-License-Identifier: Apache-2.0
//! One API client: it sends one request at a time, and each step has a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ipc::control::receive_with_one;
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::MsgFlags;

use super::http::{self, BODY_MAX_BYTES, HEAD_MAX_BYTES, Refusal, Response};
use super::route::{Command, route};

/// How long a client may take to send a request, and to take an answer.
pub(crate) const STEP_NS: u64 = 5_000_000_000;
/// The most bytes of input that are kept.
const INPUT_MAX_BYTES: usize = HEAD_MAX_BYTES + BODY_MAX_BYTES;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Receiving a request.
    Request,
    /// Its request is being served.
    Service,
    /// Sending the answer.
    Answer,
    /// Reading what follows a refused request: closing a socket with unread input could cost the
    /// client its answer.
    Linger,
    /// The connection can be dropped.
    Over,
}

/// One API client.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    step: Step,
    input: Vec<u8>,
    input_ended: bool,
    /// The descriptor that came with the input.
    descriptor: Option<OwnedFd>,
    output: Vec<u8>,
    keep_alive: bool,
    /// The client sent something that is no request.
    refused: bool,
    deadline_ns: u64,
}

impl Connection {
    /// A client that has just connected.
    pub(crate) fn new(stream: UnixStream, now_ns: u64) -> Self {
        Self {
            stream,
            step: Step::Request,
            input: Vec::new(),
            input_ended: false,
            descriptor: None,
            output: Vec::new(),
            keep_alive: false,
            refused: false,
            deadline_ns: now_ns + STEP_NS,
        }
    }

    /// Whether the connection can be dropped.
    pub(crate) fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// The client's descriptor, and the events to wait for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let events = match self.step {
            Step::Request | Step::Linger => PollFlags::POLLIN,
            Step::Answer => PollFlags::POLLOUT,
            Step::Service | Step::Over => PollFlags::empty(),
        };
        (self.stream.as_fd(), events)
    }

    /// When [`Self::tick`] must be called at the latest; a request being served has a deadline of
    /// its own.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        (!matches!(self.step, Step::Service | Step::Over)).then_some(self.deadline_ns)
    }

    /// Handles a deadline that has passed.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        if self.deadline_ns().is_none_or(|deadline| now_ns < deadline) {
            return;
        }
        if self.step == Step::Request && !self.input.is_empty() {
            self.refuse(Refusal::new(408, "the request took too long"), now_ns);
        } else {
            self.step = Step::Over;
        }
    }

    /// Handles the descriptor when it is ready.
    pub(crate) fn ready(&mut self, events: PollFlags, now_ns: u64) {
        if self.step == Step::Request {
            self.receive();
        }
        if self.step == Step::Answer {
            self.send(now_ns);
        }
        if self.step == Step::Linger {
            self.discard();
        }
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR;
        if self.step == Step::Service && events.intersects(gone) {
            self.step = Step::Over;
        }
    }

    fn receive(&mut self) {
        let mut chunk = [0; 4096];
        while self.input.len() < INPUT_MAX_BYTES {
            match receive_with_one(self.stream.as_fd(), &mut chunk, MsgFlags::empty()) {
                Ok((0, _)) => {
                    self.input_ended = true;
                    return;
                }
                Ok((len, descriptor)) => {
                    self.input.extend_from_slice(&chunk[..len]);
                    self.descriptor = descriptor.or(self.descriptor.take());
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => {
                    self.step = Step::Over;
                    return;
                }
            }
        }
    }

    fn discard(&mut self) {
        let mut chunk = [0; 4096];
        // Bounded: the other clients get their turn before the rest is read.
        for _ in 0..16 {
            match self.stream.read(&mut chunk) {
                Ok(1..) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => {
                    self.step = Step::Over;
                    return;
                }
            }
        }
    }

    /// The next request to serve, if one has come; answers a wrong request at once.
    pub(crate) fn next_command(&mut self, now_ns: u64) -> Option<Command> {
        // More requests may already be buffered behind a refused one, and no poll event announces
        // them.
        while self.step == Step::Request {
            let request = match http::parse(&self.input) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    if self.input_ended {
                        self.step = Step::Over;
                    }
                    return None;
                }
                Err(refusal) => {
                    self.refuse(refusal, now_ns);
                    return None;
                }
            };
            self.input.drain(..request.len);
            self.keep_alive = request.keep_alive;
            self.step = Step::Service;
            match route(&request) {
                Ok(command) => return Some(command),
                Err(refusal) => self.answer(&Response::Refused(refusal), now_ns),
            }
        }
        None
    }

    /// The client's stream, for an answer without an end.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// The descriptor that came with the request being served.
    pub(crate) fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }

    /// Refuses input that is no request: nothing after it can be trusted to be one.
    pub(crate) fn refuse(&mut self, refusal: Refusal, now_ns: u64) {
        self.keep_alive = false;
        self.refused = true;
        self.step = Step::Service;
        self.answer(&Response::Refused(refusal), now_ns);
    }

    /// Answers the request being served.
    pub(crate) fn answer(&mut self, response: &Response, now_ns: u64) {
        if self.step != Step::Service {
            return;
        }
        // A descriptor belongs to one request, whether that request used it or not.
        self.descriptor = None;
        self.output = response.encode(self.keep_alive);
        self.step = Step::Answer;
        self.deadline_ns = now_ns + STEP_NS;
        self.send(now_ns);
    }

    fn send(&mut self, now_ns: u64) {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(len) => {
                    self.output.drain(..len);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.step = Step::Over;
                    return;
                }
            }
        }
        self.step = match (self.keep_alive, self.refused) {
            (true, _) => Step::Request,
            (false, false) => Step::Over,
            (false, true) => Step::Linger,
        };
        if self.step == Step::Linger && self.stream.shutdown(Shutdown::Write).is_err() {
            self.step = Step::Over;
        }
        self.deadline_ns = now_ns + STEP_NS;
    }
}
