// SPDX-License-Identifier: Apache-2.0
//! What a device's backends are told of writes that the storage has lost.

use std::sync::atomic::Ordering::Relaxed;

use ipc::broker::{Answer, Question, ToJailer, ToSupervisor};
use ipc::control::{Channel, ToBackend};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use spec::SpecError;
use spec::api::DeviceKind;

use super::actor::{Cast, Role};
use super::device_tests::FIRST;
use super::*;
use crate::JailerLink;
use crate::child::ChildSpec;
use crate::devices::script::{
    BackendError, BeginError, Kind, Opened, PreparedBackend, SpawnOptions,
};
use crate::process::{ManagedProcess, SpawnContext, SpawnError};

const KILLED: Death = Death::Signalled(Signal::SIGKILL);
const QUESTION: Question = Question::SyncDisk(4);

/// A disk that is written to.
#[derive(Debug)]
struct Written(Role);

impl Kind for Written {
    fn id(&self) -> &str {
        self.0.id()
    }
    fn role(&self) -> String {
        self.0.role()
    }
    fn fault(&self, reason: String) -> SpecError {
        self.0.fault(reason)
    }
    fn renew(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        self.0.renew()
    }
    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Disk)
    }
    fn queues(&self) -> u16 {
        self.0.queues()
    }
    fn witness(&self) -> Option<Question> {
        Some(QUESTION)
    }
    fn prepare(
        &mut self,
        context: &SpawnContext,
        how: SpawnOptions<'_>,
        opened: Option<Opened>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError> {
        self.0.prepare(context, how, opened)
    }
    fn start(
        &self,
        context: &SpawnContext,
        child: &ChildSpec,
    ) -> Result<ManagedProcess, SpawnError> {
        self.0.start(context, child)
    }
}

/// Its device, and both ends of the link to the jailer.
struct Stage {
    slot: ManagedDevice,
    cast: Cast,
    context: SpawnContext,
    other: Channel,
    now_ns: u64,
}

impl Stage {
    /// With its first backend.
    fn new() -> Self {
        let (ours, other) = Channel::pair().unwrap();
        for end in [&ours, &other] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        let cast = Cast::default();
        let mut slot = ManagedDevice::new(Written(Role(Rc::clone(&cast), Rc::default())));
        let context = scenery::context(Rc::new(JailerLink::new(ours)));
        let mut actions = Actions::default();
        let (prepared, _) = slot.prepare(&context, FIRST, &mut actions).unwrap();
        slot.begin(&context, prepared.unwrap(), FIRST, &mut actions)
            .unwrap();
        let mut stage = Self {
            slot,
            cast,
            context,
            other,
            now_ns: 1,
        };
        stage.tick();
        stage
    }

    fn tick(&mut self) {
        assert_eq!(self.context.jailer.listen(), []);
        self.now_ns += 20 * MS_NS;
        self.slot.tick(&self.context, self.now_ns);
    }

    /// The living backend dies, and another one, which says that it knows what it is told, follows.
    fn next(&mut self) {
        self.part(|part| part.die(KILLED));
        self.slot.exited(self.now_ns);
        // The pause after the third death is 100 ms.
        (0..8).for_each(|_| self.tick());
        self.part(|part| {
            part.writes_page()
                .version
                .store(ipc::health::KNOWS_SYNCED, Relaxed);
        });
    }

    fn part<T>(&self, act: impl FnOnce(&mut actor::Part) -> T) -> T {
        act(self.cast.borrow_mut().last_mut().unwrap())
    }

    /// The number of the question that was asked.
    fn asked(&self) -> Option<u32> {
        match self.other.receive() {
            Ok(Some(ToJailer::Ask(number, question))) => {
                assert_eq!(question, QUESTION);
                Some(number)
            }
            _ => None,
        }
    }

    /// The jailer answers; what the living backend is told.
    fn answer(&mut self, number: u32, answer: Answer) -> Option<ToBackend> {
        let answer = ToSupervisor::Answer(number, answer);
        self.other.send(&answer).unwrap();
        self.tick();
        self.part(|part| part.next_message())
    }
}

const LOST: Option<ToBackend> = Some(ToBackend::Synced { lost: true });
const SAFE: Option<ToBackend> = Some(ToBackend::Synced { lost: false });

#[test]
fn first_backend_has_no_question_and_each_later_one_is_told_the_answer() {
    let mut stage = Stage::new();
    assert_eq!(stage.asked(), None);
    for _ in 0..2 {
        stage.next();
        let number = stage.asked().expect("it was not asked");
        assert_eq!(stage.asked(), None, "asked twice");
        assert_eq!(stage.answer(number, Answer::Synced(0)), SAFE);
    }
}

#[test]
fn loss_is_told_to_each_backend_until_one_says_that_the_driver_knows() {
    let mut stage = Stage::new();
    stage.next();
    let number = stage.asked().unwrap();
    assert_eq!(stage.answer(number, Answer::Synced(libc::EIO)), LOST);
    stage.next();
    let number = stage.asked().unwrap();
    assert_eq!(stage.answer(number, Answer::Synced(0)), LOST);
    stage.part(|part| part.writes_page().loss_told.store(1, Relaxed));
    stage.next();
    let number = stage.asked().unwrap();
    assert_eq!(stage.answer(number, Answer::Synced(0)), SAFE);
}

#[test]
fn answer_that_comes_after_its_backend_has_died_counts_for_the_next() {
    let mut stage = Stage::new();
    stage.next();
    let stale = stage.asked().unwrap();
    stage.next();
    assert_eq!(stage.asked(), None, "the last one is not answered");
    assert_eq!(stage.answer(stale, Answer::Synced(libc::EIO)), None);
    let number = stage.asked().expect("it was not asked for this one");
    assert_eq!(stage.answer(number, Answer::Synced(0)), LOST);
}

#[test]
fn question_that_could_not_be_asked_is_asked_again_and_a_helper_that_died_counts_as_a_loss() {
    let mut stage = Stage::new();
    stage.next();
    let number = stage.asked().unwrap();
    assert_eq!(stage.answer(number, Answer::Refused(libc::EBUSY)), None);
    (0..6).for_each(|_| stage.tick());
    let number = stage.asked().expect("it was not asked again");
    assert_eq!(stage.answer(number, Answer::Refused(libc::EIO)), LOST);
}
