// SPDX-License-Identifier: Apache-2.0
//! When a fence falls, and what is asked for it.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsFd;
use std::rc::Rc;

use ipc::broker::{Answer, ToJailer, ToSupervisor};
use ipc::control::Channel;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::*;

fn jailer() -> JailerLink {
    JailerLink::new(Channel::pair().unwrap().0)
}

/// Says that it is there until it is not believed.
#[derive(Debug)]
struct Liar(bool);

impl PendingIo for Liar {
    fn is_quiesced(&mut self, _id: &str, _jailer: &JailerLink) -> bool {
        self.0
    }

    fn distrust(&mut self) {
        self.0 = true;
    }
}

#[test]
fn fence_of_a_liar_falls_when_patience_is_over() {
    let mut fence = Fence::new(Box::new(Liar(false)), 7);
    while fence.deadline_ns() < 7 + PATIENCE_NS {
        assert_eq!(fence.ended("d", &jailer(), fence.deadline_ns()), None);
    }
    assert_eq!(fence.ended("d", &jailer(), fence.deadline_ns()), None);
    assert!(fence.ended("d", &jailer(), fence.deadline_ns()).is_some());
}

/// Gone at the look of this number.
#[derive(Debug)]
struct Slow(u32);

impl PendingIo for Slow {
    fn is_quiesced(&mut self, _id: &str, _jailer: &JailerLink) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 == 0
    }
}

#[test]
fn fence_of_nothing_falls_at_once() {
    assert_eq!(
        Fence::new(Box::new(()), 7).ended("d", &jailer(), 9),
        Some(0)
    );
}

#[test]
fn fence_is_looked_at_whenever_something_happens_and_when_it_is_time() {
    let mut fence = Fence::new(Box::new(Slow(3)), 7);
    assert_eq!(fence.ended("d", &jailer(), 7), None);
    let deadline_ns = fence.deadline_ns();
    assert_eq!(fence.ended("d", &jailer(), 8), None);
    assert_eq!(fence.deadline_ns(), deadline_ns, "it is not put off");
    assert!(fence.ended("d", &jailer(), deadline_ns).is_some());
}

/// Is there for ever, and counts how often it is not believed.
#[derive(Debug, Default)]
struct Endless(Rc<Cell<u32>>);

impl PendingIo for Endless {
    fn is_quiesced(&mut self, _id: &str, _jailer: &JailerLink) -> bool {
        false
    }

    fn distrust(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn fence_is_looked_at_often_at_first_and_seldom_later() {
    let mut fence = Fence::new(Box::new(Endless::default()), 7);
    let mut next_ms = |waited_ms: u64| {
        let now_ns = 7 + waited_ms * 1_000_000;
        assert_eq!(fence.ended("d", &jailer(), now_ns), None);
        (fence.deadline_ns() - now_ns) / 1_000_000
    };
    let looks = [0, 8, 80, 800, 4000, 8000, 80_000].map(&mut next_ms);
    assert_eq!(looks, [1, 1, 10, 100, 500, 500, 500]);
}

#[test]
fn fence_that_does_not_fall_for_five_seconds_is_not_believed_once() {
    let distrusted = Rc::new(Cell::new(0));
    let mut fence = Fence::new(Box::new(Endless(Rc::clone(&distrusted))), 7);
    let mut after = |waited_ns: u64| {
        assert_eq!(fence.ended("d", &jailer(), 7 + waited_ns), None);
        distrusted.get()
    };
    let seconds = [0, 4_999_999_999, 6_000_000_000, 7_000_000_000];
    assert_eq!(seconds.map(&mut after), [0, 0, 1, 1]);
    let mut fence = Fence::new(Box::new(Endless(Rc::clone(&distrusted))), 7);
    assert_eq!(fence.ended("d", &jailer(), 7 + 5_000_000_000), None);
    assert_eq!(distrusted.get(), 2, "five seconds are enough");
}

#[test]
fn fence_that_falls_tells_how_many_microseconds_it_stood() {
    let mut fence = Fence::new(Box::new(Slow(1)), 7);
    assert_eq!(fence.ended("d", &jailer(), 7 + 12_345_678), Some(12_345));
}

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
