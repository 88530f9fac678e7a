// SPDX-License-Identifier: Apache-2.0
//! The two I/O engines. Both take operations in batches, complete them in any order, and have a
//! descriptor that is readable when an operation has completed.
//!
//! Runs on the worker thread that owns the queue.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use host::seccomp::Filter;

use crate::io::Io;

pub mod retry;
pub mod threads;
pub mod uring;

pub use retry::EngineError;

/// A completed operation: its head, and the number of bytes or a negative errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The head that it was started with.
    pub head: u16,
    /// The result of read(2), write(2), fdatasync(2) or fallocate(2), or a negative errno.
    pub result: i32,
}

/// How much of a batch was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// All of it.
    Whole,
    /// The kernel has no memory for the rest now; it may have later.
    Partly,
}

/// What the engines use for I/O.
pub enum Source {
    /// An io_uring for each queue.
    Rings(Vec<io_uring::IoUring>),
    /// The image, and whether it was opened for direct I/O.
    Threads(Arc<File>, bool),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rings(rings) => write!(f, "Rings({})", rings.len()),
            Self::Threads(..) => write!(f, "Threads"),
        }
    }
}

impl Source {
    /// The filter that allows what the engines call.
    pub(crate) fn filter(&self) -> &'static Filter {
        match self {
            Self::Rings(_) => &crate::seccomp::URING,
            Self::Threads(..) => &crate::seccomp::THREADS,
        }
    }

    /// An engine for each queue; as many as there are rings if there are any.
    pub(crate) fn engines(self, queues: u16) -> io::Result<Vec<Engine>> {
        match self {
            Self::Rings(rings) => {
                let engines = rings
                    .into_iter()
                    .map(|ring| Box::new(uring::Uring::new(ring)));
                Ok(engines.map(Engine::Uring).collect())
            }
            Self::Threads(disk, direct) => (0..queues)
                .map(|_| threads::Threads::new(disk.clone(), direct).map(Engine::Threads))
                .collect(),
        }
    }
}

/// An engine that serves one queue.
#[derive(Debug)]
pub enum Engine {
    /// An io_uring.
    Uring(Box<uring::Uring>),
    /// A pool of threads.
    Threads(threads::Threads),
}

impl Engine {
    /// Adds an operation to the batch. The caller keeps its `Io` unchanged and guest memory mapped
    /// until it has completed, and starts no other operation with this head meanwhile.
    pub fn start(&mut self, head: u16, io: &Io) {
        match self {
            Self::Uring(engine) => engine.start(head, io),
            Self::Threads(engine) => engine.start(head, io),
        }
    }

    /// Submits the batch, as far as the kernel takes it.
    ///
    /// # Errors
    /// If the engine has failed for good: none of its incomplete operations will complete in this
    /// process.
    pub fn submit(&mut self) -> Result<Submitted, EngineError> {
        match self {
            Self::Uring(engine) => engine.submit(),
            Self::Threads(_) => Ok(Submitted::Whole),
        }
    }

    /// After a batch was not taken: whether no operation is in progress whose completion would wake
    /// the worker, so that the worker must wait by [`Engine::pause`].
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Uring(engine) => engine.is_idle(),
            Self::Threads(_) => false,
        }
    }

    /// Sleeps before submitting the batch again, each time in a row longer, up to some 60 ms.
    pub fn pause(&mut self) {
        match self {
            Self::Uring(engine) => engine.pause(),
            Self::Threads(_) => {}
        }
    }

    /// Whether an operation has completed.
    pub fn is_ready(&mut self) -> bool {
        match self {
            Self::Uring(engine) => engine.is_ready(),
            Self::Threads(engine) => engine.is_ready(),
        }
    }

    /// Appends the completed operations to `done`.
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

/// The mode of fallocate(2) for a discard or write-zeroes. Ranges are within the image, so its size
/// never changes. Zeroing still omits FALLOC_FL_KEEP_SIZE: with it the kernel allocates beyond the
/// end of a file regardless of RLIMIT_FSIZE, and the filter does not allow that call.
fn fallocate_mode(unmap: bool) -> i32 {
    match unmap {
        true => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        false => libc::FALLOC_FL_ZERO_RANGE,
    }
}
