// SPDX-License-Identifier: Apache-2.0
//! One client: bytes and descriptors in, one answer after the other out. Nothing has a deadline: clients
//! keep connections idle for hours. [`crate::listener`] drops the idlest when there are too many.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ipc::control::receive_with_all;
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::MsgFlags;

use crate::fault::Fault;
use crate::http::{self, Answer, BODY_MAX_BYTES, CONTINUE, HEAD_MAX_BYTES, Parsed, Request};

/// The most descriptors that are kept for a request: what one message can have.
const DESCRIPTORS_MAX: usize = 253;

/// The most that is read of a request. What is not a whole one by then is none: chunks may have words without end
/// beside their sizes.
const INPUT_MAX_BYTES: usize = HEAD_MAX_BYTES + BODY_MAX_BYTES;

/// One client.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    /// Those that have come since the last request, in whichever message.
    descriptors: Vec<OwnedFd>,
    output: VecDeque<u8>,
    /// The client has been told to send the body.
    told: bool,
    /// Nothing more is read.
    deaf: bool,
    over: bool,
}

impl Connection {
    /// A client that has just connected.
    ///
    /// # Errors
    /// The kernel's, which never come.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            descriptors: Vec::new(),
            output: VecDeque::new(),
            told: false,
            deaf: false,
            over: false,
        })
    }

    /// The client's descriptor, and the events to wait for.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLOUT, !self.output.is_empty());
        events.set(PollFlags::POLLIN, self.output.is_empty());
        (self.stream.as_fd(), events)
    }

    /// Whether the connection can be dropped.
    pub fn is_over(&self) -> bool {
        self.over || self.deaf && self.output.is_empty()
    }

    /// Reads and writes what can be without waiting.
    pub fn ready(&mut self) {
        self.send();
        if self.output.is_empty() && !self.deaf {
            self.receive();
        }
    }

    fn receive(&mut self) {
        let mut chunk = [0; 16 << 10];
        while self.input.len() < INPUT_MAX_BYTES {
            match receive_with_all(self.stream.as_fd(), &mut chunk, MsgFlags::empty()) {
                Ok((len @ 1.., descriptors)) => {
                    self.input.extend_from_slice(&chunk[..len]);
                    self.descriptors.extend(descriptors);
                    if self.descriptors.len() > DESCRIPTORS_MAX {
                        let reason = format!("There are more than {DESCRIPTORS_MAX} descriptors");
                        return self.refuse(Fault::bad(reason));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Ok((0, _)) | Err(_) => {
                    self.over = true;
                    return;
                }
            }
        }
    }

    /// The next request, with the descriptors that came beside it.
    pub fn next_request(&mut self) -> Option<(Request, Vec<OwnedFd>)> {
        if self.deaf || self.over || !self.output.is_empty() || self.input.is_empty() {
            return None;
        }
        match http::parse(&self.input) {
            Ok(Parsed::Whole(request)) => {
                self.input.drain(..request.len);
                self.told = false;
                Some((request, std::mem::take(&mut self.descriptors)))
            }
            Ok(Parsed::Partial { .. }) if self.input.len() >= INPUT_MAX_BYTES => {
                self.refuse(http::too_long());
                None
            }
            Ok(Parsed::Partial { expects }) => {
                if expects && !self.told {
                    self.told = true;
                    self.output.extend(CONTINUE);
                    self.send();
                }
                None
            }
            Err(fault) => {
                self.refuse(fault);
                None
            }
        }
    }

    /// Refuses what is no request: nothing after it can be trusted to be one.
    fn refuse(&mut self, fault: Fault) {
        eprintln!("cloud-hypervisor: {}", fault.chain.join(": "));
        self.input.clear();
        self.descriptors.clear();
        self.answer(&Answer::Refused(fault), false);
    }

    /// Answers a request.
    pub fn answer(&mut self, answer: &Answer, keep_alive: bool) {
        self.output.extend(answer.encode(keep_alive));
        self.deaf |= !keep_alive;
        self.send();
    }

    fn send(&mut self) {
        while !self.output.is_empty() && !self.over {
            let (part, _) = self.output.as_slices();
            match self.stream.write(part) {
                Ok(len) => drop(self.output.drain(..len)),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.over = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    fn pair() -> (UnixStream, Connection) {
        let (client, stream) = UnixStream::pair().unwrap();
        (client, Connection::new(stream).unwrap())
    }

    fn heard(client: &mut UnixStream) -> String {
        client.set_nonblocking(true).unwrap();
        let mut text = Vec::new();
        let _ = client.read_to_end(&mut text);
        client.set_nonblocking(false).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn descriptors_of_any_message_belong_to_the_request() {
        let (mut client, mut connection) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        let numbers = [null.as_raw_fd(), null.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&numbers)];
        let head = [IoSlice::new(
            b"PUT /api/v1/vm.add-net HTTP/1.1\r\nHost: localhost\r\n",
        )];
        let flags = MsgFlags::empty();
        sendmsg::<()>(client.as_raw_fd(), &head, &rights, flags, None).unwrap();
        connection.ready();
        assert!(connection.next_request().is_none());
        client.write_all(b"Content-Length: 2\r\n\r\n").unwrap();
        client.write_all(b"{}").unwrap();
        connection.ready();
        let (request, descriptors) = connection.next_request().unwrap();
        assert_eq!(
            (request.body.as_slice(), descriptors.len()),
            (&b"{}"[..], 2)
        );
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        connection.answer(&Answer::Done, true);
        connection.ready();
        let (_, descriptors) = connection.next_request().unwrap();
        assert!(descriptors.is_empty(), "they belong to one request");
    }

    #[test]
    fn client_that_expects_is_told_once_and_then_answered() {
        let (mut client, mut connection) = pair();
        let head = b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
        client.write_all(head).unwrap();
        for _ in 0..2 {
            connection.ready();
            assert!(connection.next_request().is_none());
        }
        assert_eq!(heard(&mut client).as_bytes(), CONTINUE);
        client.write_all(b"x").unwrap();
        connection.ready();
        assert_eq!(connection.next_request().unwrap().0.body, b"x");
    }

    #[test]
    fn request_that_does_not_end_is_refused() {
        let (mut client, mut connection) = pair();
        let writer = std::thread::spawn(move || {
            let head = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;";
            client.write_all(head).unwrap();
            // It stops when nobody reads any more.
            let endless = vec![b'x'; 1 << 20];
            while client.write_all(&endless).is_ok() {}
            client
        });
        while !connection.is_over() {
            connection.ready();
            assert!(connection.next_request().is_none());
        }
        drop(connection);
        let mut answer = [0; 14];
        writer.join().unwrap().read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413 \r");
    }

    #[test]
    fn client_that_vanishes_or_talks_nonsense_is_dropped_and_the_latter_is_told() {
        let (mut client, mut connection) = pair();
        client.write_all(b"PUT / HT").unwrap();
        drop(client);
        connection.ready();
        assert!(connection.is_over());

        let (mut client, mut connection) = pair();
        client.write_all(b"nonsense\r\n\r\n").unwrap();
        connection.ready();
        assert!(connection.next_request().is_none() && connection.is_over());
        let told = heard(&mut client);
        assert!(
            told.starts_with("HTTP/1.1 400 \r\n") && told.ends_with("\"]"),
            "{told}"
        );
    }
}
