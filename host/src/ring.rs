// SPDX-License-Identifier: Apache-2.0
//! An io_uring that can only do I/O on one file.
//!
//! The supervisor creates it and the backend inherits it, without the file itself. Seccomp does not
//! see what the backend submits; the ring's restrictions limit it. The supervisor keeps the ring
//! after the backend has died and so sees when the backend's I/O has ended ([`RingWatch`]): the I/O
//! fence before the next generation starts.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use io_uring::register::Restriction;
use io_uring::squeue::Flags;
use io_uring::{IoUring, Parameters, opcode};
use ipc::record::RingParams;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The index of the file among the ring's registered ones.
pub const FILE: u32 = 0;
/// The most kernel threads of one ring for blocking I/O: on regular files and block devices, and on
/// other files.
const WORKERS_MAX: [u32; 2] = [16, 4];
/// IORING_FEAT_SINGLE_MMAP: both queues are in one mapping, since Linux 5.4.
const SINGLE_MMAP: u32 = 1;

/// Why a ring could not be made or adopted.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} an io_uring{}", remedy(source))]
pub struct RingError {
    step: &'static str,
    #[source]
    source: std::io::Error,
}

/// The kernel counts rings as locked memory, per user and not per process.
fn remedy(source: &std::io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOMEM) => {
            " (the limit on locked memory, ulimit -l, may be too low: raise it, or give the disk \
             engine=threads)"
        }
        _ => "",
    }
}

fn failed(step: &'static str) -> impl FnOnce(std::io::Error) -> RingError {
    move |source| RingError { step, source }
}

/// Indices into [`RingParams`].
mod word {
    pub(super) const FEATURES: usize = 5;
    pub(super) const SQ_HEAD: usize = 10;
    pub(super) const CQ_TAIL: usize = 21;
}

const _: () = assert!(size_of::<RingParams>() == size_of::<Parameters>());
const _: () = assert!(align_of::<RingParams>() <= align_of::<Parameters>());

/// Makes a ring for `entries` requests on `file`. The process that inherits the descriptor uses it.
pub fn create(entries: u16, file: BorrowedFd<'_>) -> Result<(OwnedFd, RingParams), RingError> {
    // No DEFER_TASKRUN: a ring would never become idle once the only task that may reap is dead. No
    // SINGLE_ISSUER: it would tie the ring to the process that makes it.
    let ring = IoUring::builder()
        .setup_r_disabled()
        .setup_submit_all()
        .build(u32::from(entries))
        .map_err(failed("make"))?;
    let submitter = ring.submitter();
    submitter
        .register_files(&[file.as_raw_fd()])
        .map_err(failed("register the file of"))?;
    submitter
        .register_iowq_max_workers(&mut WORKERS_MAX.clone())
        .map_err(failed("limit the threads of"))?;
    let mut restrictions = [
        Restriction::sqe_op(opcode::Read::CODE),
        Restriction::sqe_op(opcode::Readv::CODE),
        Restriction::sqe_op(opcode::Write::CODE),
        Restriction::sqe_op(opcode::Writev::CODE),
        Restriction::sqe_op(opcode::Fsync::CODE),
        Restriction::sqe_op(opcode::Fallocate::CODE),
        Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
    ];
    submitter
        .register_restrictions(&mut restrictions)
        .map_err(failed("restrict"))?;
    submitter
        .register_enable_rings()
        .map_err(failed("enable"))?;
    let fd = borrow(&ring)
        .try_clone_to_owned()
        .map_err(failed("duplicate"))?;
    Ok((fd, params_of(&ring)))
}

#[allow(unsafe_code)]
fn borrow(ring: &IoUring) -> BorrowedFd<'_> {
    // SAFETY: the ring owns the descriptor and is borrowed for as long as the result is.
    unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }
}

#[allow(unsafe_code)]
fn params_of(ring: &IoUring) -> RingParams {
    let params = ring.params().clone();
    // SAFETY: Parameters is a transparent wrapper of a C structure of 30 words (the size is asserted
    // above), all of them written by the kernel or zero.
    unsafe { std::mem::transmute(params) }
}

/// Maps an inherited ring in order to submit to it.
#[allow(unsafe_code)]
pub fn adopt(fd: OwnedFd, params: &RingParams) -> Result<IoUring, RingError> {
    // SAFETY: a transparent wrapper of a C structure of 30 words (the size is asserted above) for
    // which every content is valid.
    let params: Parameters = unsafe { std::mem::transmute(params.clone()) };
    // SAFETY: the descriptor is owned and given away; `params` come from `create`, through the
    // launch record, which only the supervisor writes.
    unsafe { IoUring::from_fd(fd.into_raw_fd(), params) }.map_err(failed("map"))
}

/// The supervisor's view of a backend's ring: how many requests the kernel has taken and completed.
#[derive(Debug)]
pub struct RingWatch {
    page: NonNull<AtomicU32>,
    len_bytes: NonZeroUsize,
    head: usize,
    tail: usize,
}

impl RingWatch {
    /// Maps the counters of a ring read-only.
    #[allow(unsafe_code)]
    pub fn new(ring: impl AsFd, params: &RingParams) -> Result<Self, RingError> {
        let RingParams(words) = params;
        let invalid = || failed("watch")(std::io::ErrorKind::InvalidInput.into());
        if words[word::FEATURES] & SINGLE_MMAP == 0 {
            return Err(invalid());
        }
        let [head, tail] = [words[word::SQ_HEAD], words[word::CQ_TAIL]].map(usize::try_from);
        let (head, tail) = (head.map_err(|_| invalid())?, tail.map_err(|_| invalid())?);
        if !head.is_multiple_of(4) || !tail.is_multiple_of(4) {
            return Err(invalid());
        }
        let len_bytes = NonZeroUsize::new(head.max(tail) + 4).ok_or_else(invalid)?;
        let flags = MapFlags::MAP_SHARED;
        // SAFETY: a new mapping at an address the kernel chooses aliases nothing; offset 0 is
        // IORING_OFF_SQ_RING, the part of the ring that holds the counters.
        let page = unsafe { mmap(None, len_bytes, ProtFlags::PROT_READ, flags, ring, 0) };
        let page = page.map_err(|e| failed("watch")(e.into()))?.cast();
        Ok(Self {
            page,
            len_bytes,
            head,
            tail,
        })
    }

    /// How many requests the kernel has taken and not completed. Valid only after the backend has
    /// exited, and only if the backend did not write the counters: a number larger than the ring
    /// means that it did.
    pub fn unfinished(&self) -> u32 {
        let taken = self.counter(self.head).load(Ordering::Acquire);
        let done = self.counter(self.tail).load(Ordering::Acquire);
        taken.wrapping_sub(done)
    }

    #[allow(unsafe_code)]
    fn counter(&self, offset: usize) -> &AtomicU32 {
        let counter = self.page.as_ptr().wrapping_add(offset / 4);
        // SAFETY: `new` has checked that the offset is a multiple of 4 and mapped 4 bytes there;
        // an atomic may be read while the kernel writes it.
        unsafe { &*counter }
    }
}

impl Drop for RingWatch {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: mapped with this length by `new`, and nothing borrows it any more.
        let _ = unsafe { munmap(self.page.cast(), self.len_bytes.get()) };
    }
}

#[allow(unsafe_code)]
// SAFETY: the mapping is only read, through atomics, from any thread.
unsafe impl Send for RingWatch {}

#[cfg(test)]
mod tests {
    use super::*;
    use io_uring::types::{Fd, Fixed};
    use std::fs::File;
    use std::io::Write;

    fn ring() -> (IoUring, RingWatch) {
        let mut file: File = ipc::memfd::shared("test", 8192, ipc::memfd::Backing::Shmem)
            .unwrap()
            .into();
        file.write_all(b"content").unwrap();
        let (fd, params) = create(8, file.as_fd()).unwrap();
        let watch = RingWatch::new(&fd, &params).unwrap();
        (adopt(fd, &params).unwrap(), watch)
    }

    #[allow(unsafe_code)]
    fn submit(ring: &mut IoUring, entry: &io_uring::squeue::Entry) -> i32 {
        // SAFETY: the buffers that the entry names outlive the wait for its completion.
        unsafe { ring.submission().push(entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    }

    #[test]
    fn ring_reads_its_file_and_counts_what_it_did() {
        let (mut ring, watch) = ring();
        let mut buffer = [0_u8; 7];
        let read = opcode::Read::new(Fixed(FILE), buffer.as_mut_ptr(), 7).build();
        assert_eq!(submit(&mut ring, &read), 7);
        assert_eq!(&buffer, b"content");
        assert_eq!(watch.unfinished(), 0);
    }

    #[test]
    fn ring_refuses_other_files_and_other_operations() {
        let (mut ring, _watch) = ring();
        let mut buffer = [0_u8; 7];
        let other = opcode::Read::new(Fd(0), buffer.as_mut_ptr(), 7).build();
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), c"/".as_ptr()).build();
        let nop = opcode::Nop::new().build();
        for entry in [other, open, nop] {
            assert_eq!(submit(&mut ring, &entry), -libc::EACCES);
        }
    }

    #[test]
    fn ring_cannot_be_given_other_files() {
        let (ring, _watch) = ring();
        assert!(ring.submitter().register_files_update(0, &[0]).is_err());
        assert!(ring.submitter().unregister_files().is_err());
    }
}
