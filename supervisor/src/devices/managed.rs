// SPDX-License-Identifier: Apache-2.0
//! One device of our own: which backend serves it, or what must happen before the next one may. The
//! same for every kind of device; a [`Kind`] is what differs.
//!
//! ```text
//! Idle ──begin──▶ Alive ──dies──▶ Fencing ──I/O ended──▶ Backoff ──pause over──▶ Alive
//!   ▲                                │ retired │ too many crashes      ▲
//!   └────────────────────────────────┘         └──▶ Failed ──asked─────┘
//! ```
//!
//! A phase owns what is true only in it. Whatever happens is told by a call, which returns what the
//! device asks for. While one backend is alive another can be prepared to succeed it: [`upgrade`].

use std::os::fd::OwnedFd;

use ipc::control::ToDevice;
use ipc::slot::DeviceSlot;
use nix::poll::PollFlags;
use spec::SpecError;
use spec::api::EventKind;

use super::backend::Backend;
use super::complaints::Complaints;
use super::fence::{Fence, PendingIo};
use super::kind::Kind;
use super::watchdog::Watchdog;
use crate::poll::{Interests, Token, earlier};
use crate::process::SpawnContext;

mod api;
mod generation;
mod messages;
mod restart;
mod spawn;
mod stats;
mod sync;
mod upgrade;

use restart::{RestartDecision, Restarts};
use spawn::Opening;
use stats::StatsCollector;
use sync::Sync;
pub(crate) use upgrade::UPGRADE_NS;
use upgrade::Upgrade;

/// How long the vmm may take to connect to a restarted backend; the vmm gives up earlier.
const CONNECT_NS: u64 = 3_000_000_000;
/// The pause after a backend ended because the vmm hung up: the vmm may itself be ending.
const HANGUP_PAUSE_NS: u64 = 100_000_000;

/// What a device asks for, of the vmm, of the VM, or of the API client that waits.
#[derive(Debug)]
pub(crate) enum DeviceAction {
    /// Have the vmm attach the device to this stream.
    Attach(OwnedFd),
    /// Have the vmm judge the backend behind this stream.
    Probe(OwnedFd),
    /// Send the vmm another message about the device.
    Tell(ToDevice),
    /// A backend died: how.
    Died(String),
    /// Note something in the event log.
    Event(EventKind, String),
    /// Answer the last request for another backend.
    Answer(Result<(), String>),
}

/// What a device asks for, in order.
#[derive(Debug, Default)]
pub(crate) struct Actions(Vec<DeviceAction>);

impl Actions {
    /// Adds another.
    pub(crate) fn push(&mut self, action: DeviceAction) {
        self.0.push(action);
    }

    /// Adds an event for the event log.
    pub(crate) fn note(&mut self, kind: EventKind, detail: impl Into<String>) {
        self.push(DeviceAction::Event(kind, detail.into()));
    }
}

impl IntoIterator for Actions {
    type Item = DeviceAction;
    type IntoIter = std::vec::IntoIter<DeviceAction>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[derive(Debug)]
enum Phase {
    /// No vmm needs a backend.
    Idle,
    /// A backend runs.
    Alive(Box<RunningBackend>),
    /// The backend is dead, and the kernel may still work for it.
    Fencing { fence: Fence, next: Next },
    /// The next backend follows at this time.
    Backoff { until_ns: u64, after_crash: bool },
    /// Too many backends have died.
    Failed { after_crash: bool },
}

/// What follows once a dead backend's I/O has ended.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// No other backend: the vmm ends, too.
    Idle,
    /// Another backend; `after_crash` if the dead one died by itself.
    Backend {
        when: RestartDecision,
        after_crash: bool,
    },
}

/// A living backend.
#[derive(Debug)]
struct RunningBackend {
    backend: Backend,
    pending_io: Box<dyn PendingIo>,
    watchdog: Watchdog,
    complaints: Complaints,
    /// The event log has its start, with its process id.
    registered: bool,
    connection: Connection,
    /// It said that the vmm hung up.
    hung_up: bool,
    /// It was killed on request, for no fault of its own.
    stop_requested: bool,
    /// The vmm ends, too, so no other backend may follow.
    retired: bool,
}

/// The vmm's connection to a living backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    /// The vmm has not connected to it; at this time the backend is killed.
    Awaited(Option<u64>),
    /// The vmm uses it.
    Made,
}

impl RunningBackend {
    fn is_connected(&self) -> bool {
        self.connection == Connection::Made
    }

    /// When it is killed unless the vmm has connected to it.
    fn connect_by_ns(&self) -> Option<u64> {
        match self.connection {
            Connection::Awaited(until_ns) => until_ns,
            Connection::Made => None,
        }
    }
}

/// A device and its backend.
#[derive(Debug)]
pub(crate) struct ManagedDevice {
    kind: Box<dyn Kind>,
    phase: Phase,
    restarts: Restarts,
    stats: StatsCollector,
    /// The program of its backends, if it is not the default of its kind.
    program: Option<OwnedFd>,
    upgrade: Option<Upgrade>,
    /// What was opened for the next backend.
    opening: Opening,
    /// Whether writes were lost.
    sync: Sync,
    /// Killed backends that never served and are not reaped yet.
    dying: Vec<Backend>,
}

impl ManagedDevice {
    /// A device without a backend.
    pub(crate) fn new(mut kind: impl Kind + 'static) -> Self {
        let first = kind.first();
        Self {
            stats: StatsCollector::new(kind.queues()),
            kind: Box::new(kind),
            phase: Phase::Idle,
            restarts: Restarts::default(),
            program: None,
            upgrade: None,
            opening: first.map_or(Opening::Unasked, Opening::Ready),
            sync: Sync::default(),
            dying: Vec::new(),
        }
    }

    /// Its name.
    pub(crate) fn id(&self) -> &str {
        self.kind.id()
    }

    /// The error that names the part of the spec to blame if no backend can live.
    pub(crate) fn fault(&self, reason: String) -> SpecError {
        self.kind.fault(reason)
    }

    /// Whether the backend that died last, if the next one has not started, died by itself.
    fn after_crash(&self) -> bool {
        match &self.phase {
            Phase::Backoff { after_crash, .. } | Phase::Failed { after_crash } => *after_crash,
            Phase::Idle | Phase::Alive(_) | Phase::Fencing { .. } => false,
        }
    }

    /// Adds the descriptors that the device waits for.
    pub(crate) fn interests<'a>(&'a self, slot: DeviceSlot, interests: &mut Interests<'a>) {
        let alive = match &self.phase {
            Phase::Alive(life) => Some(&life.backend),
            _ => None,
        };
        let candidate = self.upgrade.as_ref().and_then(Upgrade::candidate);
        let all = alive.into_iter().chain(candidate).chain(&self.dying);
        for backend in all {
            let exit = Token::BackendExit(slot);
            interests.add(exit, backend.process().exit_fd(), PollFlags::POLLIN);
        }
        for backend in alive.into_iter().chain(candidate) {
            if let Some(control) = backend.process().control_fd() {
                interests.add(Token::BackendControl(slot), control, PollFlags::POLLIN);
            }
        }
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let own = match &self.phase {
            Phase::Fencing { fence, .. } => Some(fence.deadline_ns()),
            // It waits for its storage, however long that takes.
            Phase::Backoff { .. } if self.opening.is_asked() => None,
            Phase::Backoff { until_ns, .. } => Some(*until_ns),
            Phase::Alive(life) => earlier(life.watchdog.deadline_ns(), life.connect_by_ns()),
            Phase::Idle | Phase::Failed { .. } => None,
        };
        let upgrade = self.upgrade.as_ref().and_then(Upgrade::deadline_ns);
        let opening = self.opening.deadline_ns();
        let asked = earlier(opening, self.sync.deadline_ns());
        earlier(own, earlier(upgrade, asked))
    }

    /// Handles deadlines that have passed, and starts the next backend when it is due.
    pub(crate) fn tick(&mut self, context: &SpawnContext, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        self.tick_connection(now_ns, &mut actions);
        self.tick_opening(context, now_ns, &mut actions);
        self.tick_upgrade(context, now_ns, &mut actions);
        self.tick_watchdog(now_ns, &mut actions);
        self.tick_fence(context, now_ns, &mut actions);
        self.tick_sync(context, now_ns);
        // A restart on request, or the end of the fence, may just have led here.
        self.tick_opening(context, now_ns, &mut actions);
        let is_due = matches!(self.phase, Phase::Backoff { until_ns, .. } if until_ns <= now_ns);
        if is_due && self.is_opened() {
            self.respawn(context, now_ns, &mut actions);
            self.tick_sync(context, now_ns);
        }
        actions.0.extend(self.register(context));
        actions
    }
}
