// SPDX-License-Identifier: Apache-2.0
//! Connects the user's terminal to a VM's console.
//!
//! Other processes share the user's descriptors, so we never set O_NONBLOCK on them: we read
//! standard input after poll(2) reports it readable, and write standard output through an
//! [`Output`]. We buffer only what is being moved.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use host::output::Output;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::read;
use serde::Serialize;
use spec::state::{CONSOLE_IN_USE, CONSOLE_SOCKET};
use spec::{Console, VmName};

use crate::client::{self, ClientError};
use crate::error::Error;
use crate::escape::{Escape, Wish};
use crate::output;
use crate::signals;
use crate::terminal::{RawMode, TerminalError};

/// How many bytes to move at once.
const CHUNK_BYTES: usize = 4096;

const HELP: &str =
    "\r\n[bulkhead] Ctrl-a x: leave   Ctrl-a c: send Ctrl-a   Ctrl-a h: this help\r\n";

/// Moves bytes between standard input and output and a console's socket.
#[derive(Debug)]
pub(crate) struct Proxy {
    socket: UnixStream,
    output: Output<'static>,
    /// Only a terminal has an escape key.
    escape: Option<Escape>,
    _raw: Option<RawMode>,
    to_guest: Vec<u8>,
    to_user: Vec<u8>,
    input_open: bool,
    output_open: bool,
    socket_open: bool,
    /// How many bytes the console has sent, and the first of them.
    received: usize,
    beginning: Vec<u8>,
}

/// A descriptor that a proxy waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Standard input.
    Input,
    /// Standard output.
    Output,
    /// The console.
    Socket,
}

impl Proxy {
    /// Puts the terminal into raw mode, if there is one.
    pub(crate) fn new(socket: UnixStream) -> Result<Self, TerminalError> {
        socket
            .set_nonblocking(true)
            .map_err(TerminalError::Socket)?;
        Ok(Self {
            socket,
            output: Output::of(stdout()),
            escape: io::stdin().is_terminal().then(Escape::default),
            _raw: RawMode::enable()?,
            to_guest: Vec::new(),
            to_user: Vec::new(),
            input_open: true,
            output_open: true,
            socket_open: true,
            received: 0,
            beginning: Vec::new(),
        })
    }

    /// Whether the console is closed and all of its output is written.
    pub(crate) fn is_done(&self) -> bool {
        !self.socket_open && self.to_user.is_empty()
    }

    /// The descriptors and events to wait for. Leaves a descriptor without events out: its POLLHUP
    /// would make a busy loop.
    pub(crate) fn interests(&self) -> Vec<(End, BorrowedFd<'_>, PollFlags)> {
        let mut interests = Vec::with_capacity(3);
        if self.input_open && self.socket_open && self.to_guest.is_empty() {
            interests.push((End::Input, stdin(), PollFlags::POLLIN));
        }
        if !self.to_user.is_empty() {
            interests.push((End::Output, stdout(), PollFlags::POLLOUT));
        }
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, self.to_user.is_empty());
        events.set(PollFlags::POLLOUT, !self.to_guest.is_empty());
        if self.socket_open && !events.is_empty() {
            interests.push((End::Socket, self.socket.as_fd(), events));
        }
        interests
    }

    /// Handles a descriptor that is ready; returns the user's command, if any.
    pub(crate) fn ready(&mut self, end: End) -> Option<Wish> {
        match end {
            End::Input => return self.read_user(),
            End::Output => self.write_user(),
            End::Socket => {
                self.write_guest();
                self.read_guest();
            }
        }
        None
    }

    fn read_user(&mut self) -> Option<Wish> {
        let mut chunk = [0; CHUNK_BYTES];
        let len = match read(stdin(), &mut chunk) {
            Ok(len @ 1..) => len,
            Err(Errno::EINTR | Errno::EAGAIN) => return None,
            Ok(_) | Err(_) => {
                self.input_open = false;
                return None;
            }
        };
        let wish = match &mut self.escape {
            Some(escape) => escape.filter(&chunk[..len], &mut self.to_guest),
            None => {
                self.to_guest.extend_from_slice(&chunk[..len]);
                None
            }
        };
        self.write_guest();
        if wish == Some(Wish::Help) {
            self.to_user.extend_from_slice(HELP.as_bytes());
            return None;
        }
        wish
    }

    fn write_guest(&mut self) {
        while !self.to_guest.is_empty() {
            match self.socket.write(&self.to_guest) {
                Ok(len) => drop(self.to_guest.drain(..len)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The console is closed; what it sent before is still read.
                Err(_) => {
                    self.to_guest.clear();
                    self.input_open = false;
                }
            }
        }
    }

    fn read_guest(&mut self) {
        if !self.to_user.is_empty() {
            return;
        }
        let mut chunk = [0; CHUNK_BYTES];
        match self.socket.read(&mut chunk) {
            Ok(len @ 1..) => {
                let room = CONSOLE_IN_USE.len().saturating_sub(self.received);
                self.beginning.extend_from_slice(&chunk[..len.min(room)]);
                self.received = self.received.saturating_add(len);
                if self.output_open {
                    self.to_user.extend_from_slice(&chunk[..len]);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.socket_open = false,
        }
    }

    fn write_user(&mut self) {
        let chunk = &self.to_user[..self.to_user.len().min(CHUNK_BYTES)];
        match self.output.write(chunk) {
            Ok(len) => drop(self.to_user.drain(..len)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            // The reader of our output is gone; the guest goes on without it.
            Err(_) => {
                self.to_user.clear();
                self.output_open = false;
            }
        }
    }

    /// Whether the console only sent that another client uses it.
    fn was_refused(&self) -> bool {
        self.received == CONSOLE_IN_USE.len() && self.beginning == CONSOLE_IN_USE.as_bytes()
    }
}

/// `bulkhead console`: until the user leaves, the VM ends, or a signal arrives.
pub(crate) fn attach(base: &Path, vm: &VmName) -> Result<(), Error> {
    let socket = match client::connect(base, vm, CONSOLE_SOCKET) {
        Err(ClientError::Unknown(..)) => connect_elsewhere(base, vm)?,
        other => other?,
    };
    let signals = signals::take_over(&[])?;
    let mut proxy = Proxy::new(socket)?;
    while !proxy.is_done() {
        let ready = {
            let interests = proxy.interests();
            let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(
                interests
                    .iter()
                    .map(|(_, fd, events)| PollFd::new(*fd, *events)),
            );
            wait(&mut fds)?;
            let ends = interests.iter().zip(&fds[1..]);
            let ends = ends.filter(|(_, fd)| fd.any().unwrap_or(false));
            ends.map(|((end, ..), _)| *end).collect::<Vec<_>>()
        };
        let asked = signals::received(&signals);
        if asked.iter().any(|signal| *signal != Signal::SIGCHLD) {
            return Ok(());
        }
        for end in ready {
            if proxy.ready(end) == Some(Wish::Quit) {
                return Ok(());
            }
        }
    }
    match proxy.was_refused() {
        true => Err(ClientError::NoConsole(vm.to_string(), "the console is in use".into()).into()),
        false => Ok(()),
    }
}

/// Waits for one of the descriptors.
pub(crate) fn wait(fds: &mut [PollFd<'_>]) -> Result<(), TerminalError> {
    wait_until(fds, PollTimeout::NONE).map(drop)
}

/// Waits for one of the descriptors; false on timeout.
pub(crate) fn wait_until(
    fds: &mut [PollFd<'_>],
    timeout: PollTimeout,
) -> Result<bool, TerminalError> {
    match poll(fds, timeout) {
        Ok(0) => Ok(false),
        Ok(_) | Err(Errno::EINTR) => Ok(true),
        Err(e) => Err(TerminalError::Poll(e)),
    }
}

/// `bulkhead console --log`: the last of what the guest has written, to standard output.
pub(crate) fn log(base: &Path, vm: &VmName, json: bool) -> Result<(), Error> {
    let output = client::console(base, vm)?;
    if !json {
        return output::write(&output);
    }
    let console = String::from_utf8_lossy(&output);
    output::print_json(&Said { vm, console })
}

/// What a guest has written; where it is not UTF-8, with marks instead.
#[derive(Debug, Serialize)]
struct Said<'a> {
    vm: &'a VmName,
    console: Cow<'a, str>,
}

/// Connects to the console of a VM that has none in its state directory, or says why there is none
/// to attach to.
fn connect_elsewhere(base: &Path, vm: &VmName) -> Result<UnixStream, ClientError> {
    let info = client::info(base, vm)?;
    if let Some(path) = &info.console_socket {
        return client::connect_to(base, vm, path);
    }
    let reason = match (&info.spec.console, info.pty) {
        (Console::Pty, Some(path)) => format!("its console is the terminal {path}"),
        (console, _) => format!("its console leads to {console}"),
    };
    Err(ClientError::NoConsole(vm.to_string(), reason))
}

fn stdin() -> BorrowedFd<'static> {
    static STDIN: std::sync::OnceLock<io::Stdin> = std::sync::OnceLock::new();
    STDIN.get_or_init(io::stdin).as_fd()
}

fn stdout() -> BorrowedFd<'static> {
    static STDOUT: std::sync::OnceLock<io::Stdout> = std::sync::OnceLock::new();
    STDOUT.get_or_init(io::stdout).as_fd()
}
