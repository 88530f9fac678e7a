// SPDX-License-Identifier: Apache-2.0
//! What a device tells, in order, and when it is to be called again: one decision at a time.

use ipc::broker::Question;
use ipc::control::{DeviceNews, FromBackend, QueueSample, ToBackend};
use ipc::slot::DeviceSlot;
use spec::SpecError;
use spec::api::DeviceKind;

use super::actor::{Cast, Part, Role};
use super::scenery::{self, CONTEXT};
use super::*;
use crate::child::ChildSpec;
use crate::devices::script::{
    BackendError, BeginError, Kind, Opened, PreparedBackend, SpawnOptions, Start,
};
use crate::poll::{Interests, Token};
use crate::process::{ManagedProcess, SpawnContext, SpawnError};

pub(super) const SECOND_NS: u64 = 1_000_000_000;
pub(super) const FIRST: Start = Start {
    now_ns: 1000 * SECOND_NS,
    is_first: true,
    keeps: false,
};
const KILLED: Death = Death::Signalled(Signal::SIGKILL);

/// A device that a test calls as the supervisor does.
pub(super) struct Device {
    pub(super) slot: ManagedDevice,
    pub(super) cast: Cast,
    pub(super) now_ns: u64,
    /// What it has asked for, and nobody has looked at.
    actions: Vec<DeviceAction>,
    pub(super) context: Rc<SpawnContext>,
    streams: Vec<OwnedFd>,
}

impl Device {
    pub(super) fn of(cast: Cast, kind: impl Kind + 'static) -> Self {
        let mut slot = ManagedDevice::new(kind);
        let mut actions = Actions::default();
        let context = CONTEXT.with(Rc::clone);
        let (prepared, link) = slot.prepare(&context, FIRST, &mut actions).unwrap();
        slot.begin(&context, prepared.unwrap(), FIRST, &mut actions)
            .unwrap();
        let registered = slot.register(&context);
        Self {
            actions: actions.into_iter().chain(registered).collect(),
            slot,
            cast,
            now_ns: 1000 * SECOND_NS,
            context,
            streams: vec![link.stream],
        }
    }

    /// One whose first backend was started.
    fn begun() -> Self {
        let cast = Cast::default();
        Self::of(Rc::clone(&cast), Role(cast, Rc::default()))
    }

    /// One whose first backend serves; what was told of it is forgotten.
    pub(super) fn serving() -> Self {
        let mut device = Self::begun();
        device.hear(&DeviceNews::Connected);
        device.told();
        device
    }

    /// One whose second backend was started, and is not connected.
    fn respawned() -> Self {
        let mut device = Self::serving();
        device.dies(0, Death::Exited(1));
        device.pass(0);
        device
    }

    /// One whose backends have died too often.
    pub(super) fn stalled() -> Self {
        let mut device = Self::serving();
        for number in 0..5 {
            device.dies(number, Death::Exited(1));
            device.pass(0);
            device.pass(2 * SECOND_NS);
        }
        device
    }

    /// What it has told since this was last asked.
    pub(super) fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        for action in std::mem::take(&mut self.actions) {
            let text = match action {
                DeviceAction::Attach(stream) => {
                    self.streams.push(stream);
                    "attach".to_owned()
                }
                DeviceAction::Probe(stream) => {
                    self.streams.push(stream);
                    "probe".to_owned()
                }
                DeviceAction::Tell(message) => format!("tell {message:?}"),
                DeviceAction::Died(how) => format!("died: {how}"),
                DeviceAction::Event(kind, detail) if detail.is_empty() => format!("{kind:?}"),
                DeviceAction::Event(kind, detail) => format!("{kind:?}: {detail}"),
                DeviceAction::Answer(Ok(())) => "answer: done".to_owned(),
                DeviceAction::Answer(Err(why)) => format!("answer: {why}"),
            };
            told.push(text);
        }
        told
    }

    /// Time passes, and the supervisor turns once; what is told.
    pub(super) fn pass(&mut self, ns: u64) -> Vec<String> {
        self.now_ns += ns;
        let actions = self.slot.tick(&self.context, self.now_ns);
        self.actions.extend(actions);
        self.told()
    }

    /// A backend dies, and the supervisor hears of it; what is told.
    pub(super) fn dies(&mut self, number: usize, death: Death) -> Vec<String> {
        self.cast.borrow_mut()[number].die(death);
        self.exited();
        self.told()
    }

    /// The supervisor hears of an end.
    pub(super) fn exited(&mut self) {
        self.actions.extend(self.slot.exited(self.now_ns));
    }

    /// The vmm says something of it.
    pub(super) fn hear(&mut self, news: &DeviceNews) {
        self.actions.extend(self.slot.hear(news, self.now_ns));
    }

    pub(super) fn restart(&mut self) -> Result<(), String> {
        let accepted = self.slot.restart(self.now_ns);
        accepted.map(|actions| self.actions.extend(actions))
    }

    pub(super) fn retire(&mut self) {
        self.actions.extend(self.slot.retire());
    }

    pub(super) fn upgrade(&mut self, program: OwnedFd) -> Result<(), String> {
        let accepted = self.slot.upgrade(&self.context, program, self.now_ns);
        accepted.map(|actions| self.actions.extend(actions))
    }

    pub(super) fn lives(&self, number: usize) -> bool {
        self.cast.borrow()[number].death.is_none()
    }

    pub(super) fn part<T>(&self, number: usize, look: impl FnOnce(&mut Part) -> T) -> T {
        look(&mut self.cast.borrow_mut()[number])
    }

    /// The number of the ping that a backend was sent; all its workers answer it.
    pub(super) fn pinged(&self, number: usize) -> Option<u32> {
        self.part(number, |part| match part.next_message()? {
            ToBackend::Ping(ping) => {
                part.answer(ping);
                Some(ping)
            }
            ToBackend::Link(_) | ToBackend::Press(_) | ToBackend::Synced { .. } => None,
        })
    }

    fn state(&self) -> DeviceState {
        self.slot.info().state
    }

    pub(super) fn waits(&mut self) -> Vec<String> {
        let sample = QueueSample {
            queue: 0,
            avail: 5,
            used: 2,
        };
        self.hear(&DeviceNews::Outstanding(vec![sample]));
        self.told()
    }
}

#[test]
fn backend_first_is_told_once_and_waited_for_without_a_limit() {
    let mut device = Device::begun();
    assert_eq!(device.told(), ["BackendStarted: pid 2"]);
    assert_eq!(device.pass(SECOND_NS), [""; 0]);
    assert_eq!(device.slot.deadline_ns(), None);
    let info = device.slot.info();
    assert_eq!((&*info.id, &*info.role), ("played", "blk played"));
    assert_eq!((info.state, info.restarts), (DeviceState::Connecting, 0));
    let process = device.slot.process().unwrap();
    assert_eq!((&*process.role, process.pid), ("blk played", 2));
    let fault = device.slot.fault("it is empty".to_owned());
    assert_eq!(fault, SpecError::new("disk", "played", "it is empty"));
    assert_eq!(device.slot.id(), "played");
    assert!(!device.slot.is_idle());
}

#[test]
fn backend_found_fit_serves_and_is_pinged() {
    let mut device = Device::begun();
    device.told();
    device.hear(&DeviceNews::Connected);
    assert_eq!(device.told(), ["BackendConnected", "answer: done"]);
    assert_eq!(device.state(), DeviceState::Serving);
    assert_eq!(device.slot.deadline_ns(), Some(device.now_ns));
    assert_eq!(device.pass(0), [""; 0]);
    assert_eq!(device.pinged(0), Some(1));
    assert_eq!(
        device.slot.deadline_ns(),
        Some(device.now_ns + SECOND_NS / 2)
    );
}

#[test]
fn backend_that_died_is_followed_once_what_it_began_has_ended() {
    let mut device = Device::serving();
    device.part(0, |part| part.busy = true);
    let died = "was killed by SIGKILL";
    let told = [format!("BackendDied: {died}"), format!("died: {died}")];
    assert_eq!(device.dies(0, KILLED), told);
    assert_eq!(device.state(), DeviceState::Fencing);
    assert!(device.slot.process().is_none());
    assert_eq!(device.slot.deadline_ns(), Some(device.now_ns));
    assert_eq!(device.pass(2_000_000), [""; 0]);
    device.part(0, |part| part.busy = false);
    let told = [
        "Fenced: 5000 us after the end of its backend",
        "attach",
        "BackendStarted: pid 3",
    ];
    assert_eq!(device.pass(3_000_000), told);
    assert_eq!(
        device.slot.deadline_ns(),
        Some(device.now_ns + 3 * SECOND_NS)
    );
    assert_eq!(device.slot.info().restarts, 1);
    assert_eq!(device.slot.stats(device.now_ns).unwrap().restarts, 1);
}

#[test]
fn backend_that_others_killed_is_no_crash_and_one_that_we_killed_is() {
    for (death, after_crash) in [(KILLED, false), (Death::Exited(1), true)] {
        let mut device = Device::serving();
        device.dies(0, death);
        device.pass(0);
        assert_eq!(device.part(1, |part| part.after_crash), after_crash);
    }
    let mut device = Device::respawned();
    device.pass(3 * SECOND_NS);
    device.dies(1, KILLED);
    device.pass(SECOND_NS);
    assert!(device.part(2, |part| part.after_crash));
}

#[test]
fn backend_that_dies_again_is_followed_later() {
    let mut device = Device::respawned();
    device.dies(1, KILLED);
    assert_eq!(
        device.pass(0),
        ["Fenced: 0 us after the end of its backend"]
    );
    assert_eq!(device.state(), DeviceState::Resting);
    assert_eq!(device.slot.deadline_ns(), Some(device.now_ns + 10_000_000));
    assert_eq!(device.pass(9_999_999), [""; 0]);
    assert_eq!(device.pass(1), ["attach", "BackendStarted: pid 4"]);
}

#[test]
fn backend_that_the_vmm_does_not_connect_to_is_killed_after_three_seconds() {
    let mut device = Device::respawned();
    assert_eq!(device.pass(3 * SECOND_NS - 1), [""; 0]);
    assert!(device.lives(1));
    assert_eq!(
        device.pass(1),
        ["BackendLost: the vmm did not connect to it"]
    );
    assert!(!device.lives(1));
    assert_eq!(device.pass(1), [""; 0]);
}

#[test]
fn backend_that_the_vmm_hung_up_on_is_followed_slowly() {
    let mut device = Device::serving();
    device.part(0, |part| part.say(&FromBackend::Serving));
    device.slot.listen();
    device.part(0, |part| part.say(&FromBackend::Hangup));
    device.slot.listen();
    let told = device.dies(0, Death::Exited(0));
    assert_eq!(told, ["BackendDied: because the vmm hung up"]);
    assert_eq!(
        device.pass(0),
        ["Fenced: 0 us after the end of its backend"]
    );
    assert_eq!(device.slot.deadline_ns(), Some(device.now_ns + 100_000_000));
    assert_eq!(device.pass(99_999_999), [""; 0]);
    assert_eq!(device.pass(1), ["attach", "BackendStarted: pid 3"]);
    assert!(device.part(1, |part| part.after_crash));
    let deaths = device.slot.stats(device.now_ns).unwrap().restarts;
    assert_eq!((deaths, device.slot.info().restarts), (0, 1));
}

#[test]
fn backend_that_says_it_serves_has_not_been_hung_up_on() {
    let mut device = Device::serving();
    device.part(0, |part| part.say(&FromBackend::Serving));
    assert_eq!(device.dies(0, KILLED).len(), 2);
}

#[test]
fn restart_asked_for_is_no_death() {
    let mut device = Device::serving();
    device.restart().unwrap();
    assert_eq!(device.told(), ["RestartAsked"]);
    assert!(!device.lives(0));
    // What the vmm says now is about a backend that is as good as gone.
    device.hear(&DeviceNews::Connected);
    assert_eq!(device.told(), ["BackendConnected"]);
    device.hear(&DeviceNews::Lost("it hung up".into()));
    assert_eq!(device.told(), [""; 0]);
    assert_eq!(device.dies(0, KILLED), ["BackendDied: as asked"]);
    let told = device.pass(0);
    assert_eq!(told[1..], ["attach", "BackendStarted: pid 3"]);
    assert!(!device.part(1, |part| part.after_crash));
    let deaths = device.slot.stats(device.now_ns).unwrap().restarts;
    assert_eq!((deaths, device.slot.info().restarts), (0, 0));
}

#[test]
fn restart_asked_for_ends_a_pause() {
    let mut device = Device::respawned();
    device.part(1, |part| part.busy = true);
    device.dies(1, KILLED);
    device.restart().unwrap();
    device.part(1, |part| part.busy = false);
    assert!(
        device.pass(0).contains(&"attach".to_owned()),
        "it was fencing"
    );
    device.dies(2, KILLED);
    device.pass(0);
    device.dies(3, KILLED);
    device.pass(0);
    assert_eq!(device.state(), DeviceState::Resting);
    device.restart().unwrap();
    assert!(
        device.pass(0).contains(&"attach".to_owned()),
        "it was resting"
    );
}

#[test]
fn device_retired_is_idle_once_what_its_backend_began_has_ended() {
    let mut device = Device::serving();
    device.retire();
    assert!(!device.lives(0) && !device.slot.is_idle());
    let refused = Err("the guest has ended or reboots".to_owned());
    assert_eq!(device.restart(), refused);
    assert_eq!(device.dies(0, KILLED), [""; 0]);
    assert!(!device.slot.is_idle());
    assert_eq!(
        device.pass(0),
        ["Fenced: 0 us after the end of its backend"]
    );
    assert!(device.slot.is_idle());
    assert_eq!(device.restart(), refused);
    assert_eq!(device.slot.stats(device.now_ns).unwrap().restarts, 0);
    assert_eq!(device.slot.deadline_ns(), None);
    let mut resting = Device::respawned();
    resting.dies(1, KILLED);
    resting.pass(0);
    let mut stalled = Device::stalled();
    for device in [&mut resting, &mut stalled] {
        device.retire();
        assert!(device.slot.is_idle());
    }
}

#[test]
fn backend_lost_is_ended_only_if_it_was_connected() {
    let mut device = Device::serving();
    device.hear(&DeviceNews::Lost("it lies".into()));
    assert_eq!(device.told(), ["BackendLost: it lies"]);
    assert!(!device.lives(0));
    let mut device = Device::respawned();
    device.hear(&DeviceNews::Lost("it lies".into()));
    assert_eq!(device.told(), [""; 0]);
    assert!(device.lives(1));
}

#[test]
fn backend_that_forgets_requests_is_hung() {
    let mut device = Device::serving();
    assert_eq!([device.waits(), device.waits()], [[""; 0], [""; 0]]);
    let told = device.waits();
    assert_eq!(
        told,
        ["BackendHung: queue 0 has requests that no thread works on"]
    );
    assert!(!device.lives(0));
    let mut device = Device::respawned();
    assert!(
        (0..5).all(|_| device.waits().is_empty()),
        "it is not connected"
    );
    assert!(device.lives(1));
    let mut device = Device::serving();
    for _ in 0..5 {
        assert_eq!([device.waits(), device.waits()], [[""; 0], [""; 0]]);
        device.slot.rest(device.now_ns);
    }
}

#[test]
fn backend_behind_slow_storage_is_slow_until_it_is_not() {
    let mut device = Device::serving();
    device.part(0, |part| part.busy = true);
    assert!((0..3).all(|_| device.waits().is_empty()));
    assert_eq!(
        device.waits(),
        ["Slow: nothing completed on queue 0 for 3 s"]
    );
    assert_eq!(device.state(), DeviceState::Slow);
    device.hear(&DeviceNews::Outstanding(Vec::new()));
    assert_eq!(device.told(), ["SlowNoMore"]);
    assert_eq!(device.state(), DeviceState::Serving);
}

#[test]
fn device_whose_backends_died_five_times_stalls_until_asked() {
    let mut device = Device::serving();
    for number in 0..4 {
        device.dies(number, Death::Exited(1));
        device.pass(0);
        device.pass(2 * SECOND_NS);
    }
    device.dies(4, Death::Exited(1));
    let died = "its backends died 5 times";
    let told = [
        "Fenced: 0 us after the end of its backend".to_owned(),
        "tell Fenced".to_owned(),
        format!("answer: {died}"),
        format!("Stalled: {died}"),
    ];
    assert_eq!(device.pass(0), told);
    assert_eq!(device.state(), DeviceState::Stalled);
    assert_eq!(device.slot.deadline_ns(), None);
    assert_eq!(device.pass(100 * SECOND_NS), [""; 0]);
    device.restart().unwrap();
    assert_eq!(device.told(), ["RestartAsked"]);
    assert_eq!(device.pass(0), ["attach", "BackendStarted: pid 7"]);
}

#[test]
fn device_s_counters_are_those_of_all_its_backends() {
    let mut device = Device::serving();
    device.part(0, |part| part.claim(3, 0));
    assert_eq!(device.slot.stats(device.now_ns).unwrap().total.requests, 3);
    device.dies(0, KILLED);
    device.pass(0);
    device.part(1, |part| part.claim(4, 0));
    let stats = device.slot.stats(device.now_ns).unwrap();
    assert_eq!((&*stats.id, stats.kind), ("played", DeviceKind::Disk));
    assert_eq!((stats.total.requests, stats.queues.len()), (7, 2));
    assert_eq!((stats.restarts, stats.dropped.len()), (1, 0));
}

#[test]
fn device_waits_for_the_end_and_the_words_of_its_backend() {
    fn ready(device: &Device) -> Vec<Token> {
        let mut interests = Interests::default();
        device.slot.interests(DeviceSlot::FIRST, &mut interests);
        let ready = interests.wait(Some(0)).unwrap();
        ready.into_iter().map(|(token, _)| token).collect()
    }
    let mut device = Device::serving();
    assert_eq!(ready(&device), []);
    device.part(0, |part| part.say(&FromBackend::Serving));
    assert_eq!(ready(&device), [Token::BackendControl(DeviceSlot::FIRST)]);
    device.slot.listen();
    assert_eq!(ready(&device), []);
    // The stage's processes seem to have ended when the vmm's end of their stream is closed.
    device.streams.clear();
    assert_eq!(ready(&device), [Token::BackendExit(DeviceSlot::FIRST)]);
    device.dies(0, KILLED);
    assert_eq!(ready(&device), []);
}

/// A device with a link, or one that needs something opened.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) role: Role,
    pub(super) link: Option<bool>,
    pub(super) needs: Option<Question>,
}

impl Kind for Card {
    fn id(&self) -> &str {
        self.role.id()
    }
    fn role(&self) -> String {
        self.role.role()
    }
    fn fault(&self, reason: String) -> SpecError {
        self.role.fault(reason)
    }
    fn renew(&mut self) -> Result<Option<OwnedFd>, BeginError> {
        self.role.renew()
    }
    fn kind(&self) -> Option<DeviceKind> {
        Some(DeviceKind::Nic)
    }
    fn set_link(&mut self, up: bool) -> bool {
        let has_link = self.link.is_some();
        self.link = self.link.map(|_| up);
        has_link
    }
    fn link_up(&self) -> Option<bool> {
        self.link
    }
    fn needs(&self) -> Option<Question> {
        self.needs
    }
    fn queues(&self) -> u16 {
        self.role.queues()
    }
    fn prepare(
        &mut self,
        context: &SpawnContext,
        how: SpawnOptions<'_>,
        opened: Option<Opened>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError> {
        self.role.prepare(context, how, opened)
    }
    fn start(
        &self,
        context: &SpawnContext,
        child: &ChildSpec,
    ) -> Result<ManagedProcess, SpawnError> {
        self.role.start(context, child)
    }
}

#[test]
fn link_is_told_to_a_card_s_backend_and_to_the_one_that_may_follow() {
    let cast = Cast::default();
    let card = Card {
        role: Role(Rc::clone(&cast), Rc::default()),
        link: Some(true),
        needs: None,
    };
    let mut device = Device::of(cast, card);
    assert_eq!(device.slot.link_up(), Some(true));
    device.hear(&DeviceNews::Connected);
    let null = scenery::null().into();
    assert_eq!(device.upgrade(null), Ok(()));
    assert!(device.slot.set_link(false));
    assert_eq!(device.slot.link_up(), Some(false));
    for number in [0, 1] {
        let message = device.part(number, |part| part.next_message());
        assert_eq!(message, Some(ToBackend::Link(false)), "{number}");
    }
    let stats = device.slot.stats(device.now_ns).unwrap();
    assert_eq!((stats.kind, stats.dropped["dhcp"]), (DeviceKind::Nic, 0));
}

#[test]
fn link_of_a_disk_cannot_be_set() {
    let mut device = Device::serving();
    assert!(!device.slot.set_link(false));
    assert_eq!(device.slot.link_up(), None);
    assert_eq!(device.part(0, |part| part.next_message()), None);
}
