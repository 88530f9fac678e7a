// SPDX-License-Identifier: Apache-2.0
//! The engine on an io_uring that can only do I/O on one file (`host::ring`).
//!
//! One system call submits the batch of a kick; the kernel moves the data between the disk and
//! guest memory, without a copy in this process.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use host::ring::FILE;
use io_uring::squeue::Entry;
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};

use super::retry::{EngineError, Pause, Refusal};
use super::{Completion, Submitted, fallocate_mode};
use crate::io::{Io, Op};

/// The io_uring engine.
pub struct Uring {
    ring: IoUring,
    unsubmitted: usize,
    /// The operations that the kernel has taken and not completed.
    under_way: usize,
    pause: Pause,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uring({})", self.ring.as_raw_fd())
    }
}

impl Uring {
    /// Uses a ring that has room for all requests of a queue.
    pub fn new(ring: IoUring) -> Self {
        Self {
            ring,
            unsubmitted: 0,
            under_way: 0,
            pause: Pause::default(),
        }
    }

    /// See [`super::Engine::start`].
    #[allow(unsafe_code)]
    pub fn start(&mut self, head: u16, io: &Io) {
        let entry = entry(io).user_data(u64::from(head));
        // SAFETY: the worker keeps the Io and the guest memory its vectors point to unchanged until
        // this head has completed (contract of Engine::start).
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            // The ring has room for every head of the queue, so it is full of a batch that the
            // kernel has not taken yet. If submitting fails here, the worker's own submit fails,
            // too.
            let _ = self.submit();
            // SAFETY: as above.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            debug_assert!(pushed.is_ok(), "more operations than heads");
        }
        self.unsubmitted += 1;
    }

    /// See [`super::Engine::submit`].
    pub fn submit(&mut self) -> Result<Submitted, EngineError> {
        while self.unsubmitted > 0 {
            match self.ring.submit() {
                Ok(0) => return Ok(Submitted::Partly),
                Ok(taken) => {
                    self.unsubmitted = self.unsubmitted.saturating_sub(taken);
                    self.under_way += taken;
                    self.pause = Pause::default();
                }
                Err(e) => match Refusal::of(&e) {
                    Refusal::Interrupted => {}
                    Refusal::ForNow => return Ok(Submitted::Partly),
                    Refusal::ForGood => return Err(EngineError(e)),
                },
            }
        }
        Ok(Submitted::Whole)
    }

    /// See [`super::Engine::is_idle`].
    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// See [`super::Engine::pause`]. Uses a futex: the filter does not allow nanosleep.
    pub fn pause(&mut self) {
        std::thread::park_timeout(self.pause.next());
    }

    /// See [`super::Engine::is_ready`].
    pub fn is_ready(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// See [`super::Engine::reap`].
    pub fn reap(&mut self, done: &mut Vec<Completion>) {
        let under_way = &mut self.under_way;
        done.extend(self.ring.completion().filter_map(|entry| {
            *under_way = under_way.saturating_sub(1);
            let head = u16::try_from(entry.user_data()).ok()?;
            let result = entry.result();
            Some(Completion { head, result })
        }));
    }
}

impl AsFd for Uring {
    #[allow(unsafe_code)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns the descriptor and is borrowed for as long as the result is.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

/// The submission queue entry of one operation. A single vector needs no list.
fn entry(io: &Io) -> Entry {
    let (file, offset) = (Fixed(FILE), io.offset());
    let flags = if io.durable() { libc::RWF_DSYNC } else { 0 };
    let count = u32::try_from(io.vectors().len()).unwrap_or(u32::MAX);
    match (io.op(), io.vectors()) {
        (Op::Read, [one]) => {
            let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
            let read = opcode::Read::new(file, one.iov_base.cast(), len);
            read.offset(offset).build()
        }
        (Op::Read, all) => {
            let read = opcode::Readv::new(file, all.as_ptr(), count);
            read.offset(offset).build()
        }
        (Op::Write, [one]) => {
            let len = u32::try_from(one.iov_len).unwrap_or(u32::MAX);
            let write = opcode::Write::new(file, one.iov_base.cast_const().cast(), len);
            write.offset(offset).rw_flags(flags).build()
        }
        (Op::Write, all) => {
            let write = opcode::Writev::new(file, all.as_ptr(), count);
            write.offset(offset).rw_flags(flags).build()
        }
        (Op::Flush, _) => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        (Op::Discard, _) => fallocate(io, true),
        (Op::WriteZeroes { unmap }, _) => fallocate(io, unmap),
    }
}

fn fallocate(io: &Io, unmap: bool) -> Entry {
    opcode::Fallocate::new(Fixed(FILE), io.len_bytes())
        .offset(io.offset())
        .mode(fallocate_mode(unmap))
        .build()
}
