// SPDX-License-Identifier: Apache-2.0
//! The two ways of doing I/O. Both take operations in batches, complete them in any order, and have
//! a descriptor that is readable when something has completed.
//!
//! Runs on the worker thread that owns the queue.

use std::os::fd::{AsFd, BorrowedFd};

use crate::io::Io;

pub mod threads;
pub mod uring;

/// What became of an operation: its head, and the number of bytes or a negative errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The head it was started with.
    pub head: u16,
    /// What read(2), write(2), fdatasync(2) or fallocate(2) would have returned.
    pub result: i32,
}

/// One of the two engines, serving one queue.
#[derive(Debug)]
pub enum Engine {
    /// An io_uring.
    Uring(Box<uring::Uring>),
    /// A few threads.
    Threads(threads::Threads),
}

impl Engine {
    /// Adds an operation to the batch. Its `Io` stays as it is, and guest memory stays mapped,
    /// until it has completed; no other operation has this head meanwhile.
    pub fn start(&mut self, head: u16, io: &Io) {
        match self {
            Self::Uring(engine) => engine.start(head, io),
            Self::Threads(engine) => engine.start(head, io),
        }
    }

    /// Sets the batch going. False if some of it has to wait until something completes.
    pub fn submit(&mut self) -> bool {
        match self {
            Self::Uring(engine) => engine.submit(),
            Self::Threads(_) => true,
        }
    }

    /// Whether something has completed.
    pub fn is_ready(&mut self) -> bool {
        match self {
            Self::Uring(engine) => engine.is_ready(),
            Self::Threads(engine) => engine.is_ready(),
        }
    }

    /// Adds what has completed to `done`.
    pub fn reap(&mut self, done: &mut Vec<Completion>) {
        match self {
            Self::Uring(engine) => engine.reap(done),
            Self::Threads(engine) => engine.reap(done),
        }
    }
}

impl AsFd for Engine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Uring(engine) => engine.as_fd(),
            Self::Threads(engine) => engine.as_fd(),
        }
    }
}

/// The arguments of fallocate(2) for a discard or write-zeroes. The size never changes.
fn fallocate_mode(unmap: bool) -> i32 {
    libc::FALLOC_FL_KEEP_SIZE
        | if unmap {
            libc::FALLOC_FL_PUNCH_HOLE
        } else {
            libc::FALLOC_FL_ZERO_RANGE
        }
}
