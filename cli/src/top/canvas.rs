// SPDX-License-Identifier: Apache-2.0
//! The terminal that `top` draws to. If its reader stops, drawing waits, but a signal still ends
//! us.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use host::output::Output;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::ends;
use crate::signals::{self, Signals};

/// Waits for the terminal and for signals at once.
#[derive(Debug)]
pub(super) struct Canvas<'a> {
    fd: BorrowedFd<'a>,
    output: Output<'a>,
    signals: &'a Signals,
}

/// A signal that ends us has arrived.
#[derive(Debug, thiserror::Error)]
#[error("interrupted by a signal")]
struct Interrupted;

impl<'a> Canvas<'a> {
    pub(super) fn new(fd: BorrowedFd<'a>, signals: &'a Signals) -> Self {
        let output = Output::of(fd);
        Self {
            fd,
            output,
            signals,
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.fd, PollFlags::POLLOUT),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match signals::received(self.signals).into_iter().any(ends) {
            true => Err(io::Error::other(Interrupted)),
            false => Ok(()),
        }
    }
}

impl Write for Canvas<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.output.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether drawing ended by a signal.
pub(super) fn was_interrupted(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|cause| cause.is::<Interrupted>())
}
