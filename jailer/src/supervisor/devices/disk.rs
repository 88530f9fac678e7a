// SPDX-License-Identifier: Apache-2.0
//! One disk: which of its backends serves, or what has to happen before the next one may.
//!
//! ```text
//! Idle ──begin──▶ Alive ──dies──▶ Fencing ──I/O ended──▶ Resting ──pause over──▶ Alive
//!   ▲                                │ retired │ too many crashes
//!   └────────────────────────────────┘         └──▶ GivenUp
//! ```

use std::os::fd::{AsFd, OwnedFd};

use launch::control::FromBackend;
use launch::health::Crash;
use launch::inflight;
use nix::poll::PollFlags;
use spec::Disk as DiskSpec;
use spec::api::ProcessInfo;

use super::fence::Fence;
use super::generation::{BackendError, Generation, Heard, Matter, Means};
use super::restarts::{Restarts, Verdict};
use super::{BeginError, Image, Link};
use crate::supervisor::poll::{Interests, Token, earlier};
use crate::supervisor::process::Death;

/// How long the vmm may take to find a restarted backend fit; it gives up earlier than that.
const CONNECT_NS: u64 = 3_000_000_000;
/// The pause after a backend ended because the vmm hung up on it: the vmm may just be going.
const HANGUP_PAUSE_NS: u64 = 100_000_000;

/// What becomes of a disk, for the vmm and the VM.
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
    Alive(Box<Generation>),
    Fencing(Box<Fence>),
    Resting { until_ns: u64 },
    GivenUp,
}

/// A disk and its backend.
#[derive(Debug)]
pub(crate) struct Disk {
    spec: DiskSpec,
    image: Image,
    phase: Phase,
    /// In-flight requests outlive the backends, not the vmm.
    inflight: Option<OwnedFd>,
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

impl Disk {
    /// A disk without a backend.
    pub(crate) fn new(spec: DiskSpec, image: Image) -> Self {
        Self {
            spec,
            image,
            phase: Phase::Idle,
            inflight: None,
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
        let name = self.spec.id.to_string();
        let id = || name.clone();
        let region = inflight::create(self.spec.queues, self.spec.queue_size)
            .map_err(|source| BeginError::Inflight(id(), source))?;
        let copy = region.try_clone();
        let copy = copy.map_err(|source| BeginError::Duplicate(id(), source))?;
        self.inflight = Some(region);
        self.restarts = Restarts::default();
        self.retiring = false;
        let spawned = self.spawn(means, false);
        let stream = spawned.map_err(|source| BeginError::Backend(id(), source))?;
        self.deadline_ns = None;
        Ok(Link {
            stream,
            inflight: Some(copy),
        })
    }

    fn spawn(&mut self, means: &Means<'_>, after_crash: bool) -> Result<OwnedFd, BackendError> {
        let inflight = self.inflight.as_ref().ok_or(nix::Error::EBADF)?;
        let matter = Matter {
            disk: &self.spec,
            image: &self.image.file,
            geometry: self.image.geometry,
            inflight: inflight.as_fd(),
            after_crash,
        };
        let (generation, stream) = Generation::spawn(means, &matter)?;
        self.phase = Phase::Alive(Box::new(generation));
        (self.connected, self.hung_up) = (false, false);
        Ok(stream)
    }

    /// Ends the backend for good; the disk is [`Self::is_idle`] when its I/O has ended, too.
    pub(crate) fn retire(&mut self) {
        self.retiring = true;
        match &self.phase {
            Phase::Alive(generation) => generation.kill(),
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
        if let Phase::Alive(generation) = &self.phase {
            let (exit, control) = (generation.exit_fd(), generation.control_fd());
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
        let id = self.spec.id.as_str();
        let Phase::Alive(generation) = &mut self.phase else {
            return;
        };
        for heard in generation.listen() {
            match heard {
                Heard::Message(message) => {
                    log::info!(device_id = id; "the backend says {message:?}");
                    self.hung_up |= message == FromBackend::Hangup;
                }
                Heard::Rubbish(what) => {
                    log::error!(device_id = id; "its backend is killed: {what}");
                    generation.kill();
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
        if let (Phase::Alive(generation), true) = (&self.phase, self.connected) {
            generation.kill();
        }
    }

    /// The backend's process has ended.
    pub(crate) fn exited(&mut self, now_ns: u64) -> Option<News> {
        self.listen();
        let Phase::Alive(generation) = &mut self.phase else {
            return None;
        };
        let death = generation.reap()?;
        let crash = generation.crash();
        let Phase::Alive(generation) = std::mem::replace(&mut self.phase, Phase::Idle) else {
            return None;
        };
        self.phase = Phase::Fencing(Box::new(generation.into_fence(now_ns)));
        self.deadline_ns = None;
        let how = told(death, crash);
        let id = self.spec.id.as_str();
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
            log::error!(device_id = self.spec.id.as_str(); "the vmm did not connect to its backend");
            if let Phase::Alive(generation) = &self.phase {
                generation.kill();
            }
        }
        if let Phase::Fencing(fence) = &mut self.phase
            && fence.has_ended(&self.image.file, self.spec.id.as_str(), now_ns)
        {
            self.phase = match (self.retiring, self.next) {
                (true, _) => Phase::Idle,
                (false, Verdict::At(until_ns)) => Phase::Resting { until_ns },
                (false, Verdict::Never) => {
                    let id = self.spec.id.as_str();
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
                let id = self.spec.id.as_str();
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

    /// What it is called in the spec.
    pub(crate) fn spec(&self) -> &DiskSpec {
        &self.spec
    }

    /// For `inspect`.
    pub(crate) fn info(&self) -> Option<ProcessInfo> {
        match &self.phase {
            Phase::Alive(generation) => Some(generation.info(&self.spec, self.restarts.total())),
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
