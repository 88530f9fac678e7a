// SPDX-License-Identifier: Apache-2.0
//! The console hub: relays between one vmm and one client at a time, and buffers what the guest
//! writes meanwhile.
//!
//! It never waits, and its buffers are bounded. A client that reads slowly slows the guest's
//! console down. For a client that has read nothing for a second the guest is not held back any
//! more, and the hub drops the oldest output.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use spec::state::CONSOLE_IN_USE;

use super::poll::{Interests, Token};

mod backlog;
mod history;

use backlog::Backlog;
pub(crate) use history::History;

/// How long a client may read nothing before the hub drops output instead of holding it back.
const STALL_NS: u64 = 1_000_000_000;
/// How much of a client's input is kept while the guest does not read.
const INPUT_BYTES: usize = 4096;
/// How many bytes are moved at once.
const CHUNK_BYTES: usize = 16 << 10;
/// How many chunks of a dead vmm are read before others get their turn: more than a socket holds.
const DEAD_CHUNKS: u32 = 64;

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    /// The client will send nothing more.
    input_ended: bool,
    /// When the client will have read nothing for too long; set only while output waits for it.
    stall_ns: Option<u64>,
    stalled: bool,
}

/// Relays between the guest's first serial port and the connected client.
#[derive(Debug)]
pub(crate) struct Hub {
    listener: UnixListener,
    client: Option<Client>,
    /// Our end of the running vmm's socket, behind those of dead vmms that have not been read to
    /// the end.
    vmms: VecDeque<UnixStream>,
    /// The running vmm's end: what it has not read is left there when it dies.
    vmm_end: Option<UnixStream>,
    /// The last vmm is dead, and none will follow.
    ended: bool,
    backlog: Backlog,
    history: History,
    input: Vec<u8>,
}

impl Hub {
    /// A hub with its first client, if there is one already.
    pub(crate) fn new(listener: UnixListener, client: Option<UnixStream>) -> Self {
        let mut hub = Self {
            listener,
            client: None,
            vmms: VecDeque::new(),
            vmm_end: None,
            ended: false,
            backlog: Backlog::default(),
            history: History::default(),
            input: Vec::new(),
        };
        hub.client = client.map(Client::new);
        hub
    }

    /// Makes the socket for a new vmm; the client gets the output of earlier vmms first. One that keeps
    /// the guest of the vmm before gets the input that this has not read.
    pub(crate) fn connect_vmm(&mut self, keeps: bool) -> io::Result<OwnedFd> {
        let (ours, its) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        its.set_nonblocking(true)?;
        self.vmms.push_back(ours);
        let before = self.vmm_end.replace(its.try_clone()?);
        if keeps {
            let mut unread = before.map(read_rest).unwrap_or_default();
            unread.append(&mut self.input);
            self.input = unread;
        } else {
            self.input.clear();
        }
        Ok(its.into())
    }

    /// Adds the descriptors that the hub waits for.
    pub(crate) fn interests<'a>(&'a self, interests: &mut Interests<'a>) {
        let when = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        if let Some(client) = &self.client {
            let read = !client.input_ended && self.input.is_empty();
            let events =
                when(read, PollFlags::POLLIN) | when(!self.backlog.is_empty(), PollFlags::POLLOUT);
            interests.add(Token::ConsoleClient, client.stream.as_fd(), events);
        }
        if let Some(vmm) = self.vmms.front().filter(|_| !self.is_front_dead()) {
            let write = !self.input.is_empty();
            let events = when(self.may_read(), PollFlags::POLLIN) | when(write, PollFlags::POLLOUT);
            // poll(2) always reports a hang-up: without events this would wake us for ever.
            if !events.is_empty() {
                interests.add(Token::ConsoleVmm, vmm.as_fd(), events);
            }
        }
        // Last, so that a client's events are not taken for those of its successor.
        interests.add(
            Token::ConsoleListener,
            self.listener.as_fd(),
            PollFlags::POLLIN,
        );
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let client = self.client.as_ref()?;
        client.stall_ns.filter(|_| !client.stalled)
    }

    /// Marks a client that has stalled, and reads what dead vmms have left.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        if let Some(client) = &mut self.client
            && client.stall_ns.is_some_and(|stall| now_ns >= stall)
        {
            client.stalled = true;
        }
        self.read_dead(now_ns);
    }

    /// The last vmm is dead.
    pub(crate) fn end(&mut self, now_ns: u64) {
        self.ended = true;
        self.vmm_end = None;
        self.read_dead(now_ns);
    }

    /// Handles a descriptor that is ready.
    pub(crate) fn ready(&mut self, token: Token, events: PollFlags, now_ns: u64) {
        match token {
            Token::ConsoleListener => self.accept(),
            Token::ConsoleClient => {
                self.read_client();
                self.write_client(now_ns);
                if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                    self.client = None;
                }
            }
            Token::ConsoleVmm => {
                self.read_vmm();
                self.write_client(now_ns);
            }
            _ => return,
        }
        self.read_dead(now_ns);
        self.write_vmm();
    }

    /// The last of what the guest has written.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Whether everything that dead vmms wrote has reached the client, or never will.
    pub(crate) fn is_drained(&self) -> bool {
        match &self.client {
            None => true,
            Some(client) if client.stalled => true,
            Some(_) => self.vmms.is_empty() && self.backlog.is_empty(),
        }
    }

    fn may_read(&self) -> bool {
        match &self.client {
            Some(client) if !client.stalled => self.backlog.room() > 0,
            _ => true,
        }
    }

    fn accept(&mut self) {
        let Ok((mut stream, _)) = self.listener.accept() else {
            return;
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        // A new client may connect because the old one has just left, and may be noticed first.
        if self.client.as_ref().is_some_and(Client::has_left) {
            self.read_client();
            self.client = None;
        }
        if self.client.is_some() {
            let _ = stream.write(CONSOLE_IN_USE.as_bytes());
            return;
        }
        self.client = Some(Client::new(stream));
    }

    fn read_client(&mut self) {
        let Some(client) = &mut self.client else {
            return;
        };
        if client.input_ended || !self.input.is_empty() {
            return;
        }
        let mut chunk = [0; INPUT_BYTES];
        match client.stream.read(&mut chunk) {
            Ok(0) => client.input_ended = true,
            Ok(len) => self.input.extend_from_slice(&chunk[..len]),
            Err(e) if retry(&e) => {}
            Err(_) => self.client = None,
        }
    }

    fn write_client(&mut self, now_ns: u64) {
        let Some(client) = &mut self.client else {
            return;
        };
        while !self.backlog.is_empty() {
            match client.stream.write(self.backlog.front()) {
                Ok(len) => {
                    self.backlog.consume(len);
                    client.stall_ns = None;
                    client.stalled = false;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    client.stall_ns.get_or_insert(now_ns + STALL_NS);
                    return;
                }
                Err(_) => {
                    self.client = None;
                    return;
                }
            }
        }
    }

    fn read_vmm(&mut self) {
        let room = match self.may_read() {
            false => return,
            true if self.client.as_ref().is_none_or(|client| client.stalled) => CHUNK_BYTES,
            true => self.backlog.room().min(CHUNK_BYTES),
        };
        let dead = self.is_front_dead();
        let Some(vmm) = self.vmms.front_mut() else {
            return;
        };
        let mut chunk = [0; CHUNK_BYTES];
        match vmm.read(&mut chunk[..room]) {
            Ok(len) if len > 0 => {
                self.backlog.push(&chunk[..len]);
                self.history.push(&chunk[..len]);
            }
            Err(e) if retry(&e) && !dead => {}
            Ok(_) | Err(_) => {
                self.vmms.pop_front();
            }
        }
    }

    fn is_front_dead(&self) -> bool {
        self.vmms.len() > usize::from(!self.ended)
    }

    /// Reads what dead vmms have left, as far as there is room. Another process may still hold
    /// their end of the socket: only what is in the socket now counts, and that is bounded.
    fn read_dead(&mut self, now_ns: u64) {
        for _ in 0..DEAD_CHUNKS {
            if !self.is_front_dead() || !self.may_read() {
                return;
            }
            self.read_vmm();
            self.write_client(now_ns);
        }
    }

    fn write_vmm(&mut self) {
        if self.input.is_empty() || self.is_front_dead() {
            return;
        }
        let Some(vmm) = self.vmms.front_mut() else {
            return;
        };
        match vmm.write(&self.input) {
            Ok(len) => {
                self.input.drain(..len);
            }
            Err(e) if retry(&e) => {}
            Err(_) => self.input.clear(),
        }
    }
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input_ended: false,
            stall_ns: None,
            stalled: false,
        }
    }

    /// Whether the client has closed its end.
    fn has_left(&self) -> bool {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// What is left in a socket, which holds little. The dead vmm shared it, and may have made it blocking.
fn read_rest(mut socket: UnixStream) -> Vec<u8> {
    let (mut rest, mut chunk) = (Vec::new(), [0; INPUT_BYTES]);
    while is_readable(&socket)
        && let Ok(len @ 1..) = socket.read(&mut chunk)
    {
        rest.extend_from_slice(&chunk[..len]);
    }
    rest
}

fn is_readable(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn retry(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
#[path = "console/tests.rs"]
mod tests;
