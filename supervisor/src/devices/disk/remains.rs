// SPDX-License-Identifier: Apache-2.0
//! Finds out when the I/O of a dead disk backend has ended.
//!
//! For a backend with rings the rings tell: they outlive it. For a backend with threads, or with
//! rings whose counters are impossible or have not moved for long, its opening of the image tells:
//! the opening holds a lock, its mark, which the kernel drops with the last user of the opening, in
//! the kernel or in a process.

use std::os::fd::OwnedFd;

use host::ring::RingWatch;
use ipc::broker::Question;

use super::super::kind::PendingIo;
use crate::jailer_link::{Asked, JailerLink};

/// A ring of a backend.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) watch: RingWatch,
    /// Keeps the ring open after the backend's death.
    pub(crate) fd: OwnedFd,
}

/// What tells whether one backend's I/O has ended.
#[derive(Debug)]
pub(crate) struct DiskRemains {
    /// The disk's place in the spec.
    index: u8,
    rings: Vec<Ring>,
    /// The most requests that a ring can have.
    ring_max: u32,
    mark: i64,
    /// The question to the jailer whether the opening was released: asking for locks may block on
    /// storage.
    asked: Option<Asked>,
}

impl DiskRemains {
    /// For a backend with these rings (none if it has threads), whose opening of the image has this
    /// mark.
    pub(crate) fn new(index: u8, rings: Vec<Ring>, queue_size: u16, mark: i64) -> Self {
        Self {
            index,
            rings,
            // The completion queue is twice as long as the submission queue.
            ring_max: 2 * u32::from(queue_size),
            mark,
            asked: None,
        }
    }

    fn is_released(&mut self, id: &str, jailer: &JailerLink) -> bool {
        let error = match &self.asked {
            Some(asked) => match asked.released() {
                None => return false,
                Some(Ok(())) => return true,
                Some(Err(error)) => {
                    self.asked = None;
                    error
                }
            },
            None => {
                let question = Question::DiskReleased(self.index, self.mark);
                match jailer.ask(question) {
                    Ok(asked) => {
                        self.asked = Some(asked);
                        return false;
                    }
                    Err(error) => error,
                }
            }
        };
        log::error!(device_id = id; "cannot tell whether its I/O has ended: {}", host::log::chain(&error));
        false
    }
}

impl PendingIo for DiskRemains {
    fn is_busy(&self, queue: u16) -> Option<bool> {
        let ring = self.rings.get(usize::from(queue))?;
        Some(ring.watch.unfinished() != 0)
    }

    fn distrust(&mut self) {
        // Without our descriptors the kernel frees the rings that have nothing to do.
        self.rings.clear();
    }

    fn is_quiesced(&mut self, id: &str, jailer: &JailerLink) -> bool {
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
        self.is_released(id, jailer)
    }
}

#[cfg(test)]
mod orders;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    use ipc::control::Channel;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use ipc::broker::{Answer, ToJailer, ToSupervisor};

    const MARK: i64 = 1 << 62;

    /// The supervisor's end of the link, and the jailer's.
    pub(super) fn pair() -> (JailerLink, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        for end in [&ours, &theirs] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        (JailerLink::new(ours), theirs)
    }

    fn image() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        file
    }

    /// Answers the question whether the opening was released.
    fn answer(jailer: &JailerLink, other: &Channel, number: u32, answer: Answer) {
        let asked = ToJailer::Ask(number, Question::DiskReleased(3, MARK));
        assert_eq!(other.receive().unwrap(), Some(asked));
        assert!(other.receive::<ToJailer>().is_err(), "asked twice");
        other.send(&ToSupervisor::Answer(number, answer)).unwrap();
        assert_eq!(jailer.listen(), []);
    }

    #[test]
    fn remains_of_threads_stay_until_the_jailer_says_that_their_opening_was_released() {
        let (jailer, other) = pair();
        let mut pending_io = DiskRemains::new(3, Vec::new(), 16, MARK);
        assert!(!pending_io.is_quiesced("d", &jailer));
        assert!(!pending_io.is_quiesced("d", &jailer));
        answer(&jailer, &other, 1, Answer::Refused(libc::EIO));
        assert!(
            !pending_io.is_quiesced("d", &jailer),
            "an error is no release"
        );
        assert!(!pending_io.is_quiesced("d", &jailer));
        answer(&jailer, &other, 2, Answer::Released);
        assert!(pending_io.is_quiesced("d", &jailer));
    }

    #[test]
    fn remains_of_idle_rings_are_gone_at_once_and_nobody_is_asked() {
        let (jailer, other) = pair();
        let (fd, params) = host::ring::create(16, image().as_fd()).unwrap();
        let watch = RingWatch::new(&fd, &params).unwrap();
        let rings = vec![Ring { watch, fd }];
        assert!(DiskRemains::new(3, rings, 16, MARK).is_quiesced("d", &jailer));
        assert!(other.receive::<ToJailer>().is_err());
    }

    #[test]
    #[allow(unsafe_code)]
    fn remains_of_a_ring_that_never_ends_are_gone_with_their_opening_once_it_is_not_believed() {
        let (jailer, other) = pair();
        // A read of a pipe that nobody writes to.
        let (file, _writer) = nix::unistd::pipe().unwrap();
        let (fd, params) = host::ring::create(16, file.as_fd()).unwrap();
        let mut user = host::ring::adopt(fd.try_clone().unwrap(), &params).unwrap();
        let byte = Box::leak(Box::new(0_u8));
        let file = io_uring::types::Fixed(host::ring::FILE);
        let read = io_uring::opcode::Read::new(file, byte, 1).build();
        // SAFETY: the buffer lives for ever.
        unsafe { user.submission().push(&read) }.unwrap();
        user.submit().unwrap();
        drop(user);
        let watch = RingWatch::new(&fd, &params).unwrap();
        let mut pending_io = DiskRemains::new(3, vec![Ring { watch, fd }], 16, MARK);
        assert!(!pending_io.is_quiesced("d", &jailer));
        assert!(other.receive::<ToJailer>().is_err(), "the ring is believed");
        pending_io.distrust();
        assert!(
            !pending_io.is_quiesced("d", &jailer),
            "somebody has the opening"
        );
        answer(&jailer, &other, 1, Answer::Released);
        assert!(pending_io.is_quiesced("d", &jailer));
    }
}
