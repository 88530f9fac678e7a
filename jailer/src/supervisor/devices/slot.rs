// SPDX-License-Identifier: Apache-2.0
//! One device of ours: which of its backends serves, or what has to happen before the next one may.
//! The same for every kind of device; what differs is a [`Kind`].
//!
//! ```text
//! Idle ──begin──▶ Alive ──dies──▶ Fencing ──I/O ended──▶ Resting ──pause over──▶ Alive
//!   ▲                                │ retired │ too many crashes
//!   └────────────────────────────────┘         └──▶ GivenUp
//! ```

use std::os::fd::OwnedFd;

use launch::control::FromBackend;
use launch::health::Crash;
use nix::poll::PollFlags;
use spec::SpecError;
use spec::api::ProcessInfo;

use super::backend::{Backend, Heard};
use super::fence::Fence;
use super::kind::{BackendError, Kind, Means, Remains};
use super::restarts::{Restarts, Verdict};
use super::{BeginError, Link};
use crate::supervisor::poll::{Interests, Token, earlier};
use crate::supervisor::process::Death;

/// How long the vmm may take to find a restarted backend fit; it gives up earlier than that.
const CONNECT_NS: u64 = 3_000_000_000;
/// The pause after a backend ended because the vmm hung up on it: the vmm may just be going.
const HANGUP_PAUSE_NS: u64 = 100_000_000;

/// What becomes of a device, for the vmm and the VM.
#[derive(Debug)]
pub(crate) enum News {
    /// The vmm is to go on with this stream.
    Attach(OwnedFd),
    /// The vmm is to know that there is no backend for now.
    Fenced,
    /// A backend died: how.
    Died(String),
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
}

/// A device and its backend.
#[derive(Debug)]
pub(crate) struct Slot {
    kind: Box<dyn Kind>,
    phase: Phase,
    restarts: Restarts,
    /// The vmm has found the living backend fit.
    connected: bool,
    /// When the living backend is killed if it is not connected.
    deadline_ns: Option<u64>,
    /// The living backend said that the vmm hung up.
    hung_up: bool,
    /// No other backend is to follow, because the vmm goes too.
    retiring: bool,
    next: Verdict,
}

impl Slot {
    /// A device without a backend.
    pub(crate) fn new(kind: impl Kind + 'static) -> Self {
        Self {
            kind: Box::new(kind),
            phase: Phase::Idle,
            restarts: Restarts::default(),
            connected: false,
            deadline_ns: None,
            hung_up: false,
            retiring: false,
            next: Verdict::Never,
        }
    }

    /// Starts the first backend for a fresh vmm.
    pub(crate) fn begin(&mut self, means: &Means<'_>) -> Result<Link, BeginError> {
        let inflight = self.kind.renew()?;
        self.restarts = Restarts::default();
        self.retiring = false;
        let spawned = self.spawn(means, false);
        let role = self.kind.role();
        let stream = spawned.map_err(|source| BeginError::Backend(role, source))?;
        self.deadline_ns = None;
        Ok(Link { stream, inflight })
    }

    fn spawn(&mut self, means: &Means<'_>, after_crash: bool) -> Result<OwnedFd, BackendError> {
        let birth = self.kind.spawn(means, after_crash)?;
        self.phase = Phase::Alive(Box::new(Life {
            backend: birth.backend,
            remains: birth.remains,
        }));
        (self.connected, self.hung_up) = (false, false);
        Ok(birth.stream)
    }

    /// Ends the backend for good; the device is [`Self::is_idle`] when its I/O has ended, too.
    pub(crate) fn retire(&mut self) {
        self.retiring = true;
        match &self.phase {
            Phase::Alive(life) => life.backend.kill(),
            Phase::Resting { .. } | Phase::GivenUp => self.phase = Phase::Idle,
            Phase::Idle | Phase::Fencing(_) => {}
        }
    }

    /// Whether nothing of it runs and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Adds what is waited for.
    pub(crate) fn interests<'a>(&'a self, index: u8, interests: &mut Interests<'a>) {
        if let Phase::Alive(life) = &self.phase {
            let (exit, control) = (life.backend.exit_fd(), life.backend.control_fd());
            interests.add(Token::BackendExit(index), exit, PollFlags::POLLIN);
            if let Some(control) = control {
                interests.add(Token::BackendControl(index), control, PollFlags::POLLIN);
            }
        }
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let own = match &self.phase {
            Phase::Fencing(fence) => Some(fence.deadline_ns()),
            Phase::Resting { until_ns } => Some(*until_ns),
            Phase::Idle | Phase::Alive(_) | Phase::GivenUp => None,
        };
        earlier(own, self.deadline_ns)
    }

    /// The backend says something.
    pub(crate) fn listen(&mut self) {
        let id = self.kind.id();
        let Phase::Alive(life) = &mut self.phase else {
            return;
        };
        for heard in life.backend.listen() {
            match heard {
                Heard::Message(message) => {
                    log::info!(device_id = id; "the backend says {message:?}");
                    self.hung_up |= message == FromBackend::Hangup;
                }
                Heard::Rubbish(what) => {
                    log::error!(device_id = id; "its backend is killed: {what}");
                    life.backend.kill();
                }
            }
        }
    }

    /// The vmm has found the backend fit.
    pub(crate) fn connected(&mut self) {
        self.connected = true;
        self.deadline_ns = None;
    }

    /// The vmm can do nothing with the backend. Said of one that was not connected yet it may be
    /// about the one before: then the deadline decides.
    pub(crate) fn lost(&mut self) {
        if let (Phase::Alive(life), true) = (&self.phase, self.connected) {
            life.backend.kill();
        }
    }

    /// The backend's process has ended.
    pub(crate) fn exited(&mut self, now_ns: u64) -> Option<News> {
        self.listen();
        let Phase::Alive(life) = &mut self.phase else {
            return None;
        };
        let death = life.backend.reap()?;
        let crash = life.backend.crash();
        let Phase::Alive(life) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return None;
        };
        self.phase = Phase::Fencing(Fence::new(life.remains, now_ns));
        self.deadline_ns = None;
        let how = told(death, crash);
        let id = self.kind.id();
        if self.retiring {
            log::info!(device_id = id; "the backend {how}");
            return None;
        }
        if self.hung_up {
            log::info!(device_id = id; "the backend ended because the vmm hung up");
            self.next = Verdict::At(now_ns + HANGUP_PAUSE_NS);
            return None;
        }
        log::error!(device_id = id; "the backend {how}");
        self.next = self.restarts.crashed(now_ns);
        Some(News::Died(how))
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, means: &Means<'_>, now_ns: u64) -> Option<News> {
        if self.deadline_ns.is_some_and(|deadline| deadline <= now_ns) {
            self.deadline_ns = None;
            log::error!(device_id = self.kind.id(); "the vmm did not connect to its backend");
            if let Phase::Alive(life) = &self.phase {
                life.backend.kill();
            }
        }
        if let Phase::Fencing(fence) = &mut self.phase
            && fence.has_ended(self.kind.id(), now_ns)
        {
            self.phase = match (self.retiring, self.next) {
                (true, _) => Phase::Idle,
                (false, Verdict::At(until_ns)) => Phase::Resting { until_ns },
                (false, Verdict::Never) => {
                    let id = self.kind.id();
                    let crashes = self.restarts.total();
                    log::error!(device_id = id; "stalled: its backends died {crashes} times");
                    self.phase = Phase::GivenUp;
                    return Some(News::Fenced);
                }
            };
        }
        match self.phase {
            Phase::Resting { until_ns } if until_ns <= now_ns => self.respawn(means, now_ns),
            _ => None,
        }
    }

    fn respawn(&mut self, means: &Means<'_>, now_ns: u64) -> Option<News> {
        match self.spawn(means, true) {
            Ok(stream) => {
                self.deadline_ns = Some(now_ns + CONNECT_NS);
                Some(News::Attach(stream))
            }
            Err(error) => {
                let id = self.kind.id();
                let error = launch::log::chain(&error);
                log::error!(device_id = id; "there is no new backend: {error}");
                self.phase = match self.restarts.crashed(now_ns) {
                    Verdict::At(then_ns) => Phase::Resting {
                        until_ns: then_ns.max(now_ns + HANGUP_PAUSE_NS),
                    },
                    Verdict::Never => Phase::GivenUp,
                };
                matches!(self.phase, Phase::GivenUp).then_some(News::Fenced)
            }
        }
    }

    /// The part of the spec that is at fault if no backend of it can live.
    pub(crate) fn fault(&self, reason: String) -> SpecError {
        self.kind.fault(reason)
    }

    /// For `inspect`.
    pub(crate) fn info(&self) -> Option<ProcessInfo> {
        match &self.phase {
            Phase::Alive(life) => {
                let restarts = self.restarts.total();
                Some(life.backend.info(self.kind.role(), restarts))
            }
            _ => None,
        }
    }
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
