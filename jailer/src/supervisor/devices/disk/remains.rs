// SPDX-License-Identifier: Apache-2.0
//! When the I/O of a dead disk backend has ended.
//!
//! Of a backend with rings, the rings tell; they outlive it. Of one with threads, or with rings
//! whose counters make no sense or have not moved for long, its opening of the image tells: it carries
//! a mark that goes with its last user, in the kernel or outside.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use launch::disk;
use launch::ring::RingWatch;
use nix::unistd::Pid;

use super::super::Image;
use super::super::kind::Remains;

/// From here on an image's bytes are marked by our generations, each its own; no image is so large.
const MARKS: i64 = 1 << 62;

/// A byte that no other generation of any VM on this host marks while it lives; `owner` is the
/// jailer's process id there.
pub(crate) fn fresh_mark(owner: Pid) -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let generation = NEXT.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff;
    // Process ids have at most 22 bits.
    MARKS + (i64::from(owner.as_raw() & 0x3f_ffff) << 32) + generation
}

/// A ring that a backend had.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) watch: RingWatch,
    /// Keeps it open after the backend's death.
    pub(crate) fd: OwnedFd,
}

/// What tells of one generation's I/O.
#[derive(Debug)]
pub(crate) struct DiskRemains {
    /// Another opening of the image than the generation's.
    image: Arc<Image>,
    rings: Vec<Ring>,
    /// How many requests a ring can have.
    ring_max: u32,
    mark: i64,
}

impl DiskRemains {
    /// For a backend with these rings, none if it has threads, whose opening of the image has
    /// marked this byte.
    pub(crate) fn new(image: Arc<Image>, rings: Vec<Ring>, queue_size: u16, mark: i64) -> Self {
        Self {
            image,
            rings,
            // The completion queue is twice as long as the submission queue.
            ring_max: 2 * u32::from(queue_size),
            mark,
        }
    }
}

impl Remains for DiskRemains {
    fn is_busy(&self, queue: u16) -> Option<bool> {
        let ring = self.rings.get(usize::from(queue))?;
        Some(ring.watch.unfinished() != 0)
    }

    fn distrust(&mut self) {
        // Closing them is the end of those that have nothing to do.
        self.rings.clear();
    }

    fn are_gone(&mut self, id: &str) -> bool {
        let unfinished = self.rings.iter().map(|ring| ring.watch.unfinished());
        match unfinished.max() {
            Some(0) => return true,
            Some(n) if n <= self.ring_max => return false,
            Some(_) => {
                log::error!(device_id = id; "its backend has damaged the counters of its rings");
                self.rings.clear();
            }
            None => {}
        }
        match disk::is_marked(&self.image.file, self.mark) {
            Ok(marked) => !marked,
            Err(error) => {
                log::error!(device_id = id; "{}", launch::log::chain(&error));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    /// An image, and an opening of it beside.
    fn image() -> (Arc<Image>, File) {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let opening = file.reopen().unwrap();
        let geometry = disk::examine(&opening, false).unwrap();
        let image = Image {
            file: file.into_file(),
            geometry,
        };
        (Arc::new(image), opening)
    }

    #[test]
    fn remains_of_threads_stay_as_long_as_anyone_has_their_opening() {
        let (image, opening) = image();
        let mark = fresh_mark(Pid::this());
        disk::mark_byte(&opening, mark).unwrap();
        let mut remains = DiskRemains::new(image, Vec::new(), 16, mark);
        assert!(!remains.are_gone("d"));
        drop(opening);
        assert!(remains.are_gone("d"));
    }

    #[test]
    fn remains_of_idle_rings_are_gone_at_once() {
        let (image, opening) = image();
        let (fd, params) = launch::ring::create(16, opening.as_fd()).unwrap();
        let watch = RingWatch::new(&fd, &params).unwrap();
        let rings = vec![Ring { watch, fd }];
        assert!(DiskRemains::new(image, rings, 16, fresh_mark(Pid::this())).are_gone("d"));
    }

    #[test]
    #[allow(unsafe_code)]
    fn remains_of_a_ring_that_never_ends_are_gone_with_their_opening_once_it_is_not_believed() {
        let (image, opening) = image();
        let mark = fresh_mark(Pid::this());
        disk::mark_byte(&opening, mark).unwrap();
        // A read of a pipe that nobody writes to.
        let (file, _writer) = nix::unistd::pipe().unwrap();
        let (fd, params) = launch::ring::create(16, file.as_fd()).unwrap();
        let mut user = launch::ring::adopt(fd.try_clone().unwrap(), &params).unwrap();
        let byte = Box::leak(Box::new(0_u8));
        let file = io_uring::types::Fixed(launch::ring::FILE);
        let read = io_uring::opcode::Read::new(file, byte, 1).build();
        // SAFETY: the buffer lives for ever.
        unsafe { user.submission().push(&read) }.unwrap();
        user.submit().unwrap();
        drop(user);
        let watch = RingWatch::new(&fd, &params).unwrap();
        let mut remains = DiskRemains::new(image, vec![Ring { watch, fd }], 16, mark);
        assert!(!remains.are_gone("d"));
        remains.distrust();
        assert!(!remains.are_gone("d"), "somebody has the opening");
        drop(opening);
        assert!(remains.are_gone("d"));
    }

    #[test]
    fn mark_is_never_the_same_and_never_negative() {
        let (a, b) = (fresh_mark(Pid::this()), fresh_mark(Pid::this()));
        assert!(a != b && a >= MARKS && b >= MARKS);
    }
}
