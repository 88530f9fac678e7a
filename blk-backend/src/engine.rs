// SPDX-License-Identifier: Apache-2.0
//! The two ways of doing I/O. Both take operations in batches, complete them in any order, and have
//! a descriptor that is readable when something has completed.
//!
//! Runs on the worker thread that owns the queue.

use std::os::fd::{AsFd, BorrowedFd};

use crate::io::Io;

pub mod retry;
pub mod threads;
pub mod uring;

pub use retry::EngineError;

/// What became of an operation: its head, and the number of bytes or a negative errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The head it was started with.
    pub head: u16,
    /// What read(2), write(2), fdatasync(2) or fallocate(2) would have returned.
    pub result: i32,
}

/// How much of a batch was set going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// All of it.
    Whole,
    /// The kernel has no room for the rest now; it may have later.
    Partly,
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

    /// Sets the batch going, as far as the kernel takes it.
    ///
    /// # Errors
    /// If the engine is of no use any more: nothing that it was given and has not completed ever will
    /// complete in this process.
    pub fn submit(&mut self) -> Result<Submitted, EngineError> {
        match self {
            Self::Uring(engine) => engine.submit(),
            Self::Threads(_) => Ok(Submitted::Whole),
        }
    }

    /// After a batch was not taken: whether nothing is under way whose completion would wake the
    /// worker, so that it has to wait by [`Engine::pause`].
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Uring(engine) => engine.is_idle(),
            Self::Threads(_) => false,
        }
    }

    /// Sleeps before the batch is submitted again, each time in a row longer, up to some 60 ms.
    pub fn pause(&mut self) {
        match self {
            Self::Uring(engine) => engine.pause(),
            Self::Threads(_) => {}
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

/// The mode of fallocate(2) for a discard or write-zeroes. Ranges are within the image, so that its size
/// never changes. Zeroing goes without FALLOC_FL_KEEP_SIZE all the same: with it the kernel allocates
/// beyond the end of a file whatever RLIMIT_FSIZE is, and the filter lets no such call past.
fn fallocate_mode(unmap: bool) -> i32 {
    match unmap {
        true => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        false => libc::FALLOC_FL_ZERO_RANGE,
    }
}
