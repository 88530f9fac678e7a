// SPDX-License-Identifier: Apache-2.0
//! One device of ours: which of its backends serves, or what has to happen before the next one may.
//! The same for every kind of device; what differs is a [`Kind`].
//!
//! ```text
//! Idle ──begin──▶ Alive ──dies──▶ Fencing ──I/O ended──▶ Resting ──pause over──▶ Alive
//!   ▲                                │ retired │ too many crashes      ▲
//!   └────────────────────────────────┘         └──▶ GivenUp ──asked────┘
//! ```
//!
//! While one is alive another may be made ready to succeed it: [`upgrade`].

use std::os::fd::{AsFd, OwnedFd};

use launch::control::{FromBackend, QueueSample, ToDevice};
use launch::health::Crash;
use nix::poll::PollFlags;
use spec::SpecError;
use spec::api::{DeviceInfo, DeviceState, EventKind, ProcessInfo};

use super::backend::{Backend, Heard};
use super::fence::Fence;
use super::kind::{BackendError, How, Kind, Means, Remains};
use super::restarts::{Restarts, Verdict};
use super::watch::{Finding, Watch};
use super::{BeginError, Link};
use crate::supervisor::poll::{Interests, Token, earlier};
use crate::supervisor::process::Death;

mod tally;
mod upgrade;

use tally::Tally;
use upgrade::Upgrade;

/// How long the vmm may take to find a restarted backend fit; it gives up earlier than that.
const CONNECT_NS: u64 = 3_000_000_000;
/// The pause after a backend ended because the vmm hung up on it: the vmm may just be going.
const HANGUP_PAUSE_NS: u64 = 100_000_000;

/// What becomes of a device, for the vmm, the VM and whoever asked for something.
#[derive(Debug)]
pub(crate) enum News {
    /// The vmm is to go on with this stream.
    Attach(OwnedFd),
    /// The vmm is to judge the backend behind this stream.
    Probe(OwnedFd),
    /// The vmm is to do something else with the device.
    Tell(ToDevice),
    /// A backend died: how.
    Died(String),
    /// Something for the journal.
    Event(EventKind, String),
    /// What came of the last wish for another backend.
    Answer(Result<(), String>),
}

#[derive(Debug)]
enum Phase {
    Idle,
    Alive(Box<Life>),
    Fencing(Fence),
    Resting { until_ns: u64 },
    GivenUp,
}

/// A backend that lives.
#[derive(Debug)]
struct Life {
    backend: Backend,
    remains: Box<dyn Remains>,
    watch: Watch,
}

/// A device and its backend.
#[derive(Debug)]
pub(crate) struct Slot {
    kind: Box<dyn Kind>,
    phase: Phase,
    restarts: Restarts,
    tally: Tally,
    /// The program of its backends, if it is not that of all devices of its kind.
    program: Option<OwnedFd>,
    upgrade: Option<Upgrade>,
    /// Backends that were never used and have been killed.
    leaving: Vec<Backend>,
    /// The vmm has found the living backend fit.
    connected: bool,
    /// When the living backend is killed if it is not connected.
    deadline_ns: Option<u64>,
    /// The living backend said that the vmm hung up.
    hung_up: bool,
    /// The living backend was killed, and did nothing to deserve it.
    planned: bool,
    /// No other backend is to follow, because the vmm goes too.
    retiring: bool,
    after_crash: bool,
    next: Verdict,
    outbox: Vec<News>,
}

impl Slot {
    /// A device without a backend.
    pub(crate) fn new(kind: impl Kind + 'static) -> Self {
        Self {
            tally: Tally::new(kind.queues()),
            kind: Box::new(kind),
            phase: Phase::Idle,
            restarts: Restarts::default(),
            program: None,
            upgrade: None,
            leaving: Vec::new(),
            connected: false,
            deadline_ns: None,
            hung_up: false,
            planned: false,
            retiring: false,
            after_crash: false,
            next: Verdict::Never,
            outbox: Vec::new(),
        }
    }

    /// Its name.
    pub(crate) fn id(&self) -> &str {
        self.kind.id()
    }

    /// Of a network card: plugs its cable in, or pulls it, for this backend and all that follow.
    /// Whether it is one.
    pub(crate) fn set_link(&mut self, up: bool) -> bool {
        if !self.kind.set_link(up) {
            return false;
        }
        if let Phase::Alive(life) = &self.phase {
            life.backend.tell_link(up);
        }
        if let Some(candidate) = self.upgrade.as_ref().and_then(Upgrade::candidate) {
            candidate.tell_link(up);
        }
        true
    }

    /// Of a network card: whether its link is up.
    pub(crate) fn link_up(&self) -> Option<bool> {
        self.kind.link_up()
    }

    /// What has become of it since this was last asked.
    pub(crate) fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.outbox)
    }

    fn note(&mut self, kind: EventKind, detail: impl Into<String>) {
        self.outbox.push(News::Event(kind, detail.into()));
    }

    /// Starts the first backend for a fresh vmm.
    pub(crate) fn begin(&mut self, means: &Means<'_>) -> Result<Link, BeginError> {
        let inflight = self.kind.renew()?;
        self.restarts = Restarts::default();
        (self.retiring, self.after_crash) = (false, false);
        let spawned = self.spawn(means);
        let role = self.kind.role();
        let stream = spawned.map_err(|source| BeginError::Backend(role, source))?;
        self.deadline_ns = None;
        Ok(Link { stream, inflight })
    }

    fn spawn(&mut self, means: &Means<'_>) -> Result<OwnedFd, BackendError> {
        let how = How {
            program: self.program.as_ref().map(AsFd::as_fd),
            after_crash: self.after_crash,
            anew: false,
        };
        let birth = self.kind.spawn(means, how)?;
        self.live(birth.backend, birth.remains);
        Ok(birth.stream)
    }

    fn live(&mut self, backend: Backend, remains: Box<dyn Remains>) {
        let pid = backend.pid();
        self.note(EventKind::BackendStarted, format!("pid {pid}"));
        self.phase = Phase::Alive(Box::new(Life {
            backend,
            remains,
            watch: Watch::new(self.kind.queues()),
        }));
        (self.connected, self.hung_up, self.planned) = (false, false, false);
    }

    /// Ends the backend for good; the device is [`Self::is_idle`] when its I/O has ended, too.
    pub(crate) fn retire(&mut self) {
        self.retiring = true;
        self.abandon("the guest has ended or rebooted");
        match &self.phase {
            Phase::Alive(life) => life.backend.kill(),
            Phase::Resting { .. } | Phase::GivenUp => self.phase = Phase::Idle,
            Phase::Idle | Phase::Fencing(_) => {}
        }
    }

    /// Whether nothing of it runs and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle) && self.leaving.is_empty()
    }

    /// Replaces the backend, or brings one to a stalled device. What was before is forgiven.
    pub(crate) fn restart(&mut self, now_ns: u64) -> Result<(), String> {
        if self.retiring || matches!(self.phase, Phase::Idle) {
            return Err("the guest has ended or reboots".into());
        }
        if self.upgrade.is_some() {
            return Err("it is being upgraded".into());
        }
        self.note(EventKind::RestartAsked, "");
        self.restarts.forgive();
        match &mut self.phase {
            Phase::Alive(life) => {
                self.planned = true;
                life.backend.kill();
            }
            Phase::Fencing(_) => self.next = Verdict::At(now_ns),
            Phase::Resting { until_ns } => *until_ns = now_ns,
            Phase::GivenUp => self.phase = Phase::Resting { until_ns: now_ns },
            Phase::Idle => {}
        }
        Ok(())
    }

    /// Adds what is waited for.
    pub(crate) fn interests<'a>(&'a self, index: u8, interests: &mut Interests<'a>) {
        let alive = match &self.phase {
            Phase::Alive(life) => Some(&life.backend),
            _ => None,
        };
        let candidate = self.upgrade.as_ref().and_then(Upgrade::candidate);
        let all = alive.into_iter().chain(candidate).chain(&self.leaving);
        for backend in all {
            let exit = Token::BackendExit(index);
            interests.add(exit, backend.exit_fd(), PollFlags::POLLIN);
        }
        for backend in alive.into_iter().chain(candidate) {
            if let Some(control) = backend.control_fd() {
                interests.add(Token::BackendControl(index), control, PollFlags::POLLIN);
            }
        }
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let own = match &self.phase {
            Phase::Fencing(fence) => Some(fence.deadline_ns()),
            Phase::Resting { until_ns } => Some(*until_ns),
            Phase::Alive(life) => life.watch.deadline_ns(),
            Phase::Idle | Phase::GivenUp => None,
        };
        let upgrade = self.upgrade.as_ref().and_then(Upgrade::deadline_ns);
        earlier(own, earlier(upgrade, self.deadline_ns))
    }

    /// A backend says something.
    pub(crate) fn listen(&mut self) {
        let id = self.kind.id();
        if let Phase::Alive(life) = &mut self.phase {
            self.hung_up |= hear(id, &mut life.backend);
        }
        if let Some(candidate) = self.upgrade.as_mut().and_then(Upgrade::candidate_mut) {
            hear(id, candidate);
        }
    }

    /// The vmm has found the backend fit.
    pub(crate) fn connected(&mut self, now_ns: u64) {
        let Phase::Alive(life) = &mut self.phase else {
            return;
        };
        life.watch.begin(now_ns);
        self.connected = true;
        self.deadline_ns = None;
        self.note(EventKind::BackendConnected, "");
        if !self.planned && self.upgrade.is_none() {
            self.outbox.push(News::Answer(Ok(())));
        }
    }

    /// The vmm can do nothing with the backend. Said of one that was not connected yet it may be
    /// about the one before: then the deadline decides.
    pub(crate) fn lost(&mut self, why: &str) {
        if let (Phase::Alive(life), true) = (&self.phase, self.connected) {
            // Of one that was killed by somebody else the vmm often hears before we do.
            life.backend.dismiss();
            if !self.planned {
                self.note(EventKind::BackendLost, why);
            }
        }
    }

    /// The vmm tells what the driver waits for.
    pub(crate) fn waits(&mut self, samples: &[QueueSample]) {
        if let (Phase::Alive(life), true) = (&mut self.phase, self.connected) {
            let Life {
                backend,
                remains,
                watch,
            } = &mut **life;
            let busy = |queue| remains.is_busy(queue);
            let finding = watch.sample(samples, backend.health(), busy);
            self.follow(finding);
        }
    }

    fn follow(&mut self, finding: Finding) {
        let Phase::Alive(life) = &mut self.phase else {
            return;
        };
        match finding {
            Finding::Fine => {}
            Finding::Ping(number) => life.backend.ping(number),
            Finding::Hung(how) => {
                life.backend.kill();
                self.note(EventKind::BackendHung, how);
            }
            Finding::Slow(how) => self.note(EventKind::Slow, how),
            Finding::SlowNoMore => self.note(EventKind::SlowNoMore, ""),
        }
    }

    /// A backend's process has ended.
    pub(crate) fn exited(&mut self, now_ns: u64) {
        self.listen();
        self.leaving.retain_mut(|backend| backend.reap().is_none());
        self.candidate_exited();
        let Phase::Alive(life) = &mut self.phase else {
            return;
        };
        let Some(death) = life.backend.reap() else {
            return;
        };
        let how = told(death, life.backend.crash());
        let murdered = life.backend.was_murdered(death);
        let Phase::Alive(life) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return;
        };
        (self.deadline_ns, self.connected) = (None, false);
        let planned = std::mem::take(&mut self.planned);
        let died = !(self.retiring || self.hung_up || planned);
        self.tally.ended(life.backend.health(), died);
        self.phase = Phase::Fencing(Fence::new(life.remains, now_ns));
        if self.retiring {
            log::info!(device_id = self.kind.id(); "the backend {how}");
        } else if self.upgrade_goes_on(planned, &how, now_ns) {
            // What follows is decided.
        } else if self.hung_up {
            self.note(EventKind::BackendDied, "because the vmm hung up");
            (self.next, self.after_crash) = (Verdict::At(now_ns + HANGUP_PAUSE_NS), true);
        } else if planned {
            self.note(EventKind::BackendDied, "as asked");
            (self.next, self.after_crash) = (Verdict::At(now_ns), false);
        } else {
            self.note(EventKind::BackendDied, how.clone());
            // A request that sees three crashes fails, and it must have had a part in them.
            (self.next, self.after_crash) = (self.restarts.crashed(now_ns), !murdered);
            self.outbox.push(News::Died(how));
        }
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, means: &Means<'_>, now_ns: u64) {
        if self.deadline_ns.is_some_and(|deadline| deadline <= now_ns) {
            self.deadline_ns = None;
            self.note(EventKind::BackendLost, "the vmm did not connect to it");
            if let Phase::Alive(life) = &self.phase {
                life.backend.kill();
            }
        }
        self.tick_upgrade(now_ns);
        match &mut self.phase {
            Phase::Alive(life) if self.connected => {
                let finding = life.watch.tick(life.backend.health(), now_ns);
                self.follow(finding);
            }
            Phase::Fencing(fence) => {
                if let Some(took_us) = fence.ended(self.kind.id(), now_ns) {
                    self.fenced(took_us, now_ns);
                }
            }
            _ => {}
        }
        if matches!(self.phase, Phase::Resting { until_ns } if until_ns <= now_ns) {
            self.respawn(means, now_ns);
        }
    }

    /// What the dead backend had begun has ended.
    fn fenced(&mut self, took_us: u64, now_ns: u64) {
        let took = format!("{took_us} us after the end of its backend");
        self.note(EventKind::Fenced, took);
        if self.retiring {
            self.phase = Phase::Idle;
        } else if !self.switch(now_ns) {
            match self.next {
                Verdict::At(until_ns) => self.phase = Phase::Resting { until_ns },
                Verdict::Never => self.give_up(),
            }
        }
    }

    fn give_up(&mut self) {
        let why = format!("its backends died {} times", self.restarts.total());
        self.phase = Phase::GivenUp;
        self.outbox.push(News::Tell(ToDevice::Fenced));
        self.outbox.push(News::Answer(Err(why.clone())));
        self.note(EventKind::Stalled, why);
    }

    fn respawn(&mut self, means: &Means<'_>, now_ns: u64) {
        match self.spawn(means) {
            Ok(stream) => {
                self.deadline_ns = Some(now_ns + CONNECT_NS);
                self.outbox.push(News::Attach(stream));
            }
            Err(error) => {
                let error = launch::log::chain(&error);
                self.note(EventKind::BackendDied, format!("could not be: {error}"));
                match self.restarts.crashed(now_ns) {
                    Verdict::At(then_ns) => {
                        let until_ns = then_ns.max(now_ns + HANGUP_PAUSE_NS);
                        self.phase = Phase::Resting { until_ns };
                    }
                    Verdict::Never => self.give_up(),
                }
            }
        }
    }

    /// The part of the spec that is at fault if no backend of it can live.
    pub(crate) fn fault(&self, reason: String) -> SpecError {
        self.kind.fault(reason)
    }

    /// For `inspect`: its process, if it has one.
    pub(crate) fn process(&self) -> Option<ProcessInfo> {
        match &self.phase {
            Phase::Alive(life) => {
                let restarts = self.restarts.total();
                Some(life.backend.info(self.kind.role(), restarts))
            }
            _ => None,
        }
    }

    /// For `inspect`: how it is.
    pub(crate) fn info(&self) -> DeviceInfo {
        let state = match &self.phase {
            Phase::Alive(_) if !self.connected => DeviceState::Connecting,
            Phase::Alive(life) if life.watch.is_slow() => DeviceState::Slow,
            Phase::Alive(_) => DeviceState::Serving,
            Phase::Fencing(_) => DeviceState::Fencing,
            Phase::Resting { .. } | Phase::Idle => DeviceState::Resting,
            Phase::GivenUp => DeviceState::Stalled,
        };
        DeviceInfo {
            id: self.kind.id().into(),
            role: self.kind.role(),
            state,
            restarts: self.restarts.total(),
            link_up: self.kind.link_up(),
        }
    }
}

/// Hears a backend; whether it said that the vmm hung up.
fn hear(id: &str, backend: &mut Backend) -> bool {
    let mut hung_up = false;
    for heard in backend.listen() {
        match heard {
            Heard::Message(message) => {
                log::info!(device_id = id; "the backend says {message:?}");
                hung_up |= message == FromBackend::Hangup;
            }
            Heard::Rubbish(what) => {
                log::error!(device_id = id; "its backend is killed: {what}");
                backend.kill();
            }
        }
    }
    hung_up
}

fn told(death: Death, crash: Crash) -> String {
    match crash {
        Crash::None => death.to_string(),
        Crash::Panic => "panicked".into(),
        Crash::Syscall(number) => {
            let name = launch::seccomp::call_name(number);
            format!("was stopped by its seccomp filter, which lacks {name} ({number})")
        }
    }
}
