// SPDX-License-Identifier: Apache-2.0
//! Carries bytes between COM1 and the descriptor the supervisor gave us, on the main thread.
//!
//! The descriptor is non-blocking. A console that does not read is waited for by poll, never by a
//! write; one that is gone is forgotten.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use devices::serial::Serial;
use launch::clock::monotonic_ns;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};

/// How long the guest's last words may take to be read once the machine has ended, in ns.
const LAST_WORDS_NS: u64 = 500_000_000;

/// COM1's way out.
#[derive(Debug)]
pub struct Console {
    fd: OwnedFd,
    serial: Arc<Serial>,
    readable: bool,
    writable: bool,
    /// The last write did not take everything.
    backlog: bool,
}

impl Console {
    /// A console on `fd`.
    pub fn new(fd: OwnedFd, serial: Arc<Serial>) -> Self {
        Self {
            fd,
            serial,
            readable: true,
            writable: true,
            backlog: false,
        }
    }

    /// What the main thread should wait for.
    pub fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(
            PollFlags::POLLIN,
            self.readable && self.serial.input_room() > 0,
        );
        interest.set(PollFlags::POLLOUT, self.backlog && self.writable);
        interest
    }

    /// Moves what can be moved both ways, without waiting.
    pub fn serve(&mut self, ready: PollFlags) {
        if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            self.take_input();
        }
        self.push_output();
    }

    fn take_input(&mut self) {
        let mut buffer = [0; 64];
        let room = self.serial.input_room().min(buffer.len());
        if !self.readable || room == 0 {
            return;
        }
        match read(&self.fd, &mut buffer[..room]) {
            Ok(0) => self.readable = false,
            Ok(len) => {
                self.serial.input(&buffer[..len]);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // A file that is only written to, or a peer that is gone.
            Err(_) => self.readable = false,
        }
    }

    fn push_output(&mut self) {
        let mut output = self.serial.take_output();
        while self.writable && !output.is_empty() {
            match write_some(self.fd.as_fd(), &output) {
                Ok(len) => drop(output.drain(..len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(_) => self.writable = false,
            }
        }
        self.backlog = self.writable && !output.is_empty();
        if self.backlog {
            self.serial.return_output(output);
        }
    }

    /// Gives a slow console a moment to read the guest's last words.
    pub fn finish(&mut self) {
        let deadline_ns = monotonic_ns() + LAST_WORDS_NS;
        self.push_output();
        while self.backlog {
            let left_ms = deadline_ns.saturating_sub(monotonic_ns()) / 1_000_000;
            let timeout = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, timeout) {
                Ok(1..) | Err(Errno::EINTR) => self.push_output(),
                _ => return,
            }
        }
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn write_some(fd: BorrowedFd<'_>, output: &VecDeque<u8>) -> nix::Result<usize> {
    let (front, back) = output.as_slices();
    write(fd, if front.is_empty() { back } else { front })
}
