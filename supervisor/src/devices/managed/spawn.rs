// SPDX-License-Identifier: Apache-2.0
//! Starts a device's backend: from what must be opened for it to a running process with a known
//! process id.
//!
//! The jailer opens it, as soon as there is to be a next backend. Only this device waits for that:
//! storage may take as long as it likes.

use std::os::fd::{AsFd, OwnedFd};

use spec::api::EventKind;

use super::{Actions, Connection, ManagedDevice, Phase, RunningBackend, Upgrade};
use crate::devices::backend::Backend;
use crate::devices::complaints::Complaints;
use crate::devices::fence::PendingIo;
use crate::devices::kind::{BackendError, Opened, PreparedBackend, SpawnOptions};
use crate::devices::watchdog::Watchdog;
use crate::jailer_link::Asked;
use crate::process::SpawnContext;

/// After this time the event log says that the device waits for its storage.
const PATIENCE_NS: u64 = 2_000_000_000;

/// How far the opening has come.
#[derive(Debug, Default)]
pub(super) enum Opening {
    /// The jailer has not been asked.
    #[default]
    Unasked,
    /// The jailer is opening it.
    Asked {
        asked: Asked,
        since_ns: u64,
        /// The event log says that the device waits for its storage.
        told: bool,
    },
    /// It is open.
    Ready(Opened),
    /// It could not be opened: asked for again when a backend is to start.
    Failed(BackendError),
}

impl Opening {
    /// Whether the jailer is opening it.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked { .. })
    }

    /// When to tell the event log about it.
    pub(super) fn deadline_ns(&self) -> Option<u64> {
        match self {
            Self::Asked {
                since_ns,
                told: false,
                ..
            } => Some(since_ns + PATIENCE_NS),
            _ => None,
        }
    }
}

impl ManagedDevice {
    /// Whether a backend can be started: what it needs is open, or could not be opened, which the
    /// start then reports.
    pub(super) fn is_opened(&self) -> bool {
        let settled = matches!(self.opening, Opening::Ready(_) | Opening::Failed(_));
        self.kind.needs().is_none() || settled
    }

    /// What was opened for the next backend, if it needs anything.
    pub(super) fn take_opened(&mut self) -> Result<Option<Opened>, BackendError> {
        match std::mem::take(&mut self.opening) {
            Opening::Ready(opened) => Ok(Some(opened)),
            Opening::Failed(error) => Err(error),
            other => {
                self.opening = other;
                Ok(None)
            }
        }
    }

    /// Asks the jailer for what is needed next, and looks for its answer.
    pub(super) fn tick_opening(
        &mut self,
        context: &SpawnContext,
        now_ns: u64,
        actions: &mut Actions,
    ) {
        let is_wanted = match &self.phase {
            Phase::Idle | Phase::Fencing { .. } | Phase::Backoff { .. } => true,
            Phase::Alive(_) => matches!(self.upgrade, Some(Upgrade::Opening { .. })),
            Phase::Failed { .. } => false,
        };
        if let (true, Opening::Unasked, Some(question)) =
            (is_wanted, &self.opening, self.kind.needs())
        {
            self.opening = match context.jailer.ask(question) {
                Ok(asked) => Opening::Asked {
                    asked,
                    since_ns: now_ns,
                    told: false,
                },
                Err(error) => Opening::Failed(BackendError::Reopen(error)),
            };
        }
        let Opening::Asked {
            asked,
            since_ns,
            told,
        } = &mut self.opening
        else {
            return;
        };
        match asked.reopened() {
            Some(answer) => {
                if *told {
                    actions.note(EventKind::SlowNoMore, "");
                }
                self.opening = match answer {
                    Ok((reopened, file)) => Opening::Ready(Opened {
                        file,
                        mark: reopened.mark,
                        geometry: reopened.geometry,
                    }),
                    Err(error) => Opening::Failed(BackendError::Reopen(error)),
                };
            }
            None if now_ns >= *since_ns + PATIENCE_NS && !*told => {
                *told = true;
                let why = "waits for its storage, which does not open the image";
                actions.note(EventKind::Slow, why);
            }
            None => {}
        }
    }

    /// Gives the vmm until then to connect to the living backend.
    pub(super) fn await_connection(&mut self, until_ns: u64) {
        if let Phase::Alive(life) = &mut self.phase {
            life.connection = Connection::Awaited(Some(until_ns));
        }
    }

    pub(super) fn spawn(&mut self, context: &SpawnContext) -> Result<OwnedFd, BackendError> {
        let (prepared, stream) = self.prepare_next(context)?;
        self.start_backend(context, prepared)?;
        Ok(stream)
    }

    pub(super) fn prepare_next(
        &mut self,
        context: &SpawnContext,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError> {
        let opened = self.take_opened()?;
        let tried = self.upgrade.as_ref().and_then(Upgrade::tried);
        let how = SpawnOptions {
            program: tried.or(self.program.as_ref()).map(AsFd::as_fd),
            after_crash: self.after_crash(),
            awaits_sync: self.sync.has_predecessor(),
            anew: false,
        };
        self.kind.prepare(context, how, opened)
    }

    /// Drops our copies of the backend's descriptors: the I/O fence needs the backend to be their
    /// last holder.
    pub(super) fn start_backend(
        &mut self,
        context: &SpawnContext,
        prepared: PreparedBackend,
    ) -> Result<(), BackendError> {
        let process = self.kind.start(context, &prepared.child)?;
        self.live(Backend::new(process), prepared.pending_io);
        Ok(())
    }

    /// Registers a started backend under its process id, which the jailer must tell: that can wait
    /// until the vmm has its stream.
    pub(crate) fn register(&mut self, context: &SpawnContext) -> Actions {
        let mut actions = Actions::default();
        if let Phase::Alive(life) = &mut self.phase
            && !life.registered
            && life.backend.identify(self.kind.id(), &context.jailer)
        {
            self.note_registration(&mut actions);
        }
        actions
    }

    /// Notes once in the event log that the living backend was started: when its process id is
    /// known, or when it ends before that.
    pub(super) fn note_registration(&mut self, actions: &mut Actions) {
        if let Phase::Alive(life) = &mut self.phase
            && !std::mem::replace(&mut life.registered, true)
        {
            let pid = life.backend.process().pid();
            actions.note(EventKind::BackendStarted, format!("pid {pid}"));
            self.answer_once_served(actions);
        }
    }

    pub(super) fn live(&mut self, backend: Backend, pending_io: Box<dyn PendingIo>) {
        self.phase = Phase::Alive(Box::new(RunningBackend {
            backend,
            pending_io,
            watchdog: Watchdog::new(self.kind.queues()),
            complaints: Complaints::default(),
            registered: false,
            connection: Connection::Awaited(None),
            hung_up: false,
            stop_requested: false,
            retired: false,
        }));
        self.sync.begin(self.kind.witness().is_some());
    }
}
