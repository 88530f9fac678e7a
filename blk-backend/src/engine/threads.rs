// SPDX-License-Identifier: Apache-2.0
//! The engine of a thread pool with preadv2(2) and pwritev2(2), for kernels and policies without
//! io_uring.
//!
//! The worker itself reads what is in the page cache; the pool does all other operations.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use device_backend::wake_event::WakeEvent;

use super::{Completion, fallocate_mode};
use crate::io::{Io, Op};

/// The number of threads of one queue.
pub const POOL: usize = 4;

/// The thread pool engine.
#[derive(Debug)]
pub struct Threads {
    shared: Arc<Shared>,
    direct: bool,
    inline: Vec<Completion>,
    pool: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<File>,
    state: Mutex<State>,
    work: Condvar,
    event: WakeEvent,
}

#[derive(Debug, Default)]
struct State {
    todo: VecDeque<Job>,
    done: Vec<Completion>,
    started: usize,
    closed: bool,
}

/// An operation for a thread of the pool.
#[derive(Debug, Clone, Copy)]
struct Job {
    head: u16,
    op: Op,
    offset: i64,
    len_bytes: i64,
    durable: bool,
    vectors: *const libc::iovec,
    count: libc::c_int,
}

#[allow(unsafe_code)]
// SAFETY: the vectors stay unchanged until the operation has completed, and no other thread reads
// them meanwhile (contract of Engine::start).
unsafe impl Send for Job {}

impl Threads {
    /// Starts the pool of one queue. With `direct`, the worker does not try the page cache.
    pub fn new(disk: Arc<File>, direct: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            disk,
            state: Mutex::default(),
            work: Condvar::new(),
            event: WakeEvent::new()?,
        });
        let spawn = |_| {
            let shared = shared.clone();
            thread::Builder::new()
                .name("disk".into())
                .stack_size(64 << 10)
                .spawn(move || shared.run())
        };
        let pool = (0..POOL).map(spawn).collect::<io::Result<_>>()?;
        // Wait until all threads are idle: they make no more of the system calls of a starting
        // thread.
        let starting = |state: &mut State| state.started < POOL;
        drop(shared.work.wait_while(shared.lock(), starting));
        Ok(Self {
            shared,
            direct,
            inline: Vec::new(),
            pool,
        })
    }

    /// See [`super::Engine::start`].
    pub fn start(&mut self, head: u16, io: &Io) {
        let job = Job {
            head,
            op: io.op(),
            offset: i64::try_from(io.offset()).unwrap_or(i64::MAX),
            len_bytes: i64::try_from(io.len_bytes()).unwrap_or(i64::MAX),
            durable: io.durable(),
            vectors: io.vectors().as_ptr(),
            count: i32::try_from(io.vectors().len()).unwrap_or(i32::MAX),
        };
        if job.op == Op::Read && !self.direct {
            let result = job.read(&self.shared.disk, libc::RWF_NOWAIT);
            if i64::from(result) == job.len_bytes {
                self.inline.push(Completion { head, result });
                return;
            }
        }
        self.shared.lock().todo.push_back(job);
        self.shared.work.notify_one();
    }

    /// See [`super::Engine::is_ready`].
    pub fn is_ready(&mut self) -> bool {
        !self.inline.is_empty() || !self.shared.lock().done.is_empty()
    }

    /// See [`super::Engine::reap`].
    pub fn reap(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.inline);
        let mut state = self.shared.lock();
        if !state.done.is_empty() {
            done.append(&mut state.done);
            // Read under the lock: a completion added later makes the eventfd readable again.
            self.shared.event.clear();
        }
    }
}

impl AsFd for Threads {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }
}

/// Waits for the operations in progress: none may outlive its engine.
impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        for thread in self.pool.drain(..) {
            // A thread that panicked has ended, too.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop of each thread of the pool.
    fn run(&self) {
        self.lock().started += 1;
        self.work.notify_all();
        loop {
            let waiting = self
                .work
                .wait_while(self.lock(), |s| s.todo.is_empty() && !s.closed);
            let mut state = waiting.unwrap_or_else(PoisonError::into_inner);
            let Some(job) = state.todo.pop_front() else {
                return;
            };
            drop(state);
            let (head, result) = (job.head, job.run(&self.disk));
            let mut state = self.lock();
            state.done.push(Completion { head, result });
            if state.done.len() == 1 {
                self.event.notify();
            }
        }
    }
}

impl Job {
    /// Does the operation; returns the same result as io_uring would.
    fn run(&self, disk: &File) -> i32 {
        match self.op {
            Op::Read => self.read(disk, 0),
            Op::Write => self.write(disk),
            Op::Flush => errno(sys::fdatasync(disk)),
            Op::Discard => self.fallocate(disk, true),
            Op::WriteZeroes { unmap } => self.fallocate(disk, unmap),
        }
    }

    fn read(&self, disk: &File, flags: libc::c_int) -> i32 {
        self.transfer(libc::SYS_preadv2, disk, flags)
    }

    fn write(&self, disk: &File) -> i32 {
        let flags = if self.durable { libc::RWF_DSYNC } else { 0 };
        self.transfer(libc::SYS_pwritev2, disk, flags)
    }

    /// Calls preadv2 or pwritev2 directly: a C library may use other calls, which the filter does
    /// not allow. A 64-bit offset is one argument; the next argument, its upper half, is ignored.
    #[allow(unsafe_code)]
    fn transfer(&self, call: libc::c_long, disk: &File, flags: libc::c_int) -> i32 {
        let (fd, count) = (disk.as_raw_fd(), libc::c_long::from(self.count));
        // SAFETY: `count` vectors at `vectors` that point into mapped guest memory, all of it
        // unchanged until this operation has completed (contract of Engine::start).
        let n = unsafe { libc::syscall(call, fd, self.vectors, count, self.offset, 0, flags) };
        errno(n)
    }

    fn fallocate(&self, disk: &File, unmap: bool) -> i32 {
        let mode = fallocate_mode(unmap);
        errno(sys::fallocate(disk, mode, self.offset, self.len_bytes))
    }
}

/// The calls without pointers.
#[allow(unsafe_code)]
mod sys {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    pub(super) fn fdatasync(file: &File) -> libc::c_long {
        // SAFETY: the descriptor is open; no memory is involved.
        libc::c_long::from(unsafe { libc::fdatasync(file.as_raw_fd()) })
    }

    pub(super) fn fallocate(file: &File, mode: i32, offset: i64, len: i64) -> libc::c_long {
        // SAFETY: the descriptor is open; no memory is involved.
        libc::c_long::from(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })
    }
}

/// The result of a call: its return value, or the negative errno.
fn errno(returned: libc::c_long) -> i32 {
    if returned < 0 {
        return -io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO);
    }
    i32::try_from(returned).unwrap_or(i32::MAX)
}
