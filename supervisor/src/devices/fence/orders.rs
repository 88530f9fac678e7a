// SPDX-License-Identifier: Apache-2.0
//! The fence of a disk's backend in every order of a few events: it never falls while the kernel still
//! works for the dead backend, and it falls once that has ended.
//!
//! Real are the fence, what it knows of the backend, and the protocol with the jailer. The model plays
//! the storage, the jailer and the time.

use ipc::broker::{Answer, ToJailer, ToSupervisor};
use ipc::control::Channel;

use super::tests::pair;
use super::*;

/// How many events a run has.
const DEPTH: u32 = 5;
const MARK: i64 = 1 << 62;
const SECOND_NS: u64 = 1_000_000_000;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The supervisor looks, for whatever reason.
    Look,
    /// So much time passes that the supervisor says that it waits, and looks.
    Patience,
    /// The storage ends what it did.
    Ends,
    /// The jailer tells what it sees.
    Answer,
    /// The jailer cannot tell.
    Refuse,
    /// An answer to a question that was never asked.
    Stray,
}

const EVENTS: [Event; 6] = [
    Event::Look,
    Event::Patience,
    Event::Ends,
    Event::Answer,
    Event::Refuse,
    Event::Stray,
];

struct World {
    fence: Fence,
    jailer: JailerLink,
    other: Channel,
    /// Questions that the jailer has not answered.
    open: Vec<u32>,
    works: bool,
    now_ns: u64,
}

impl World {
    fn new() -> Self {
        let (jailer, other) = pair();
        let pending_io = DiskRemains::new(3, Vec::new(), 16, MARK);
        Self {
            fence: Fence::new(Box::new(pending_io), 1),
            jailer,
            other,
            open: Vec::new(),
            works: true,
            now_ns: 1,
        }
    }

    /// Whether the fence falls.
    fn look(&mut self) -> bool {
        let fell = self.fence.ended("d", &self.jailer, self.now_ns).is_some();
        while let Ok(Some(ToJailer::Ask(number, question))) = self.other.receive() {
            assert_eq!(question, Question::DiskReleased(3, MARK));
            self.open.push(number);
        }
        assert!(self.open.len() <= 1, "asked again before it was answered");
        assert!(!(fell && self.works), "fell while the storage works");
        fell
    }

    fn tell(&mut self, number: u32, answer: Answer) {
        let message = ToSupervisor::Answer(number, answer);
        self.other.send(&message).unwrap();
        assert_eq!(self.jailer.listen(), []);
    }

    /// Whether the fence has fallen.
    fn play(&mut self, event: Event) -> bool {
        self.now_ns += 20_000_000;
        match event {
            Event::Look => return self.look(),
            Event::Patience => {
                self.now_ns += 6 * SECOND_NS;
                return self.look();
            }
            Event::Ends => self.works = false,
            // The helper that waits for the release answers when it has come.
            Event::Answer if self.works => {}
            Event::Answer => {
                if let Some(number) = self.open.pop() {
                    self.tell(number, Answer::Released);
                }
            }
            Event::Refuse => {
                if let Some(number) = self.open.pop() {
                    self.tell(number, Answer::Refused(libc::EIO));
                }
            }
            Event::Stray => self.tell(77_777, Answer::Released),
        }
        false
    }
}

#[test]
fn model_of_the_fence_falls_in_every_order_once_and_only_when_the_storage_has_ended() {
    let count = u32::try_from(EVENTS.len()).unwrap();
    let mut fallen = 0;
    for run in 0..count.pow(DEPTH) {
        let order = (0..DEPTH).map(|at| EVENTS[(run / count.pow(at) % count) as usize]);
        let order: Vec<_> = order.collect();
        let mut world = World::new();
        if order.iter().any(|event| world.play(*event)) {
            fallen += 1;
            continue;
        }
        // Whatever has happened, it falls when the storage ends and the jailer says so.
        let rest = [Event::Ends, Event::Look, Event::Answer, Event::Look];
        let fell = rest.repeat(2).iter().any(|event| world.play(*event));
        assert!(fell, "{order:?}");
    }
    assert!(fallen > 0);
}
