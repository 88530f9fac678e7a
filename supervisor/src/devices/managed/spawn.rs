// SPDX-License-Identifier: Apache-2.0
//! Starts a device's backend: from what was opened for it to a running process with a known process
//! id.

use std::os::fd::{AsFd, OwnedFd};

use spec::api::EventKind;

use super::{CONNECT_NS, DeviceAction, ManagedDevice, Phase, RunningBackend, Upgrade};
use crate::devices::backend::Backend;
use crate::devices::complaints::Complaints;
use crate::devices::kind::{BackendError, PendingIo, PreparedBackend, SpawnContext, SpawnOptions};
use crate::devices::restarts::Restarts;
use crate::devices::watchdog::Watchdog;
use crate::devices::{BeginError, Link, Start, socket_pair};

impl ManagedDevice {
    /// Prepares the first backend for a new vmm, and what the vmm gets for the device. If it cannot
    /// be prepared, and this is not the VM's first start, the vmm gets a stream with a closed peer,
    /// and the next backend follows as after a crash.
    pub(crate) fn prepare(
        &mut self,
        context: &SpawnContext<'_>,
        start: Start,
    ) -> Result<(Option<PreparedBackend>, Link), BeginError> {
        let inflight = self.kind.renew()?;
        self.restarts = Restarts::default();
        (self.retiring, self.after_crash) = (false, false);
        let (prepared, stream) = match self.prepare_next(context) {
            Ok((prepared, stream)) => (Some(prepared), stream),
            Err(error) if start.is_first => return Err(self.unborn(error)),
            Err(error) => {
                self.could_not_be(&error, start.now_ns);
                let nowhere = socket_pair::nowhere();
                (None, nowhere.map_err(|error| self.unborn(error.into()))?)
            }
        };
        Ok((prepared, Link { stream, inflight }))
    }

    /// Starts the prepared backend.
    pub(crate) fn begin(
        &mut self,
        context: &SpawnContext<'_>,
        prepared: PreparedBackend,
        start: Start,
    ) -> Result<(), BeginError> {
        match self.start_backend(context, prepared) {
            // At the first start the vmm itself limits how long it waits.
            Ok(()) => self.deadline_ns = (!start.is_first).then(|| start.now_ns + CONNECT_NS),
            Err(error) if start.is_first => return Err(self.unborn(error)),
            Err(error) => self.could_not_be(&error, start.now_ns),
        }
        Ok(())
    }

    /// The vmm still builds its machine and connects to no backend: its time to do so starts anew.
    pub(crate) fn postpone(&mut self, now_ns: u64) {
        if let Some(deadline_ns) = &mut self.deadline_ns {
            *deadline_ns = now_ns + CONNECT_NS;
        }
    }

    fn unborn(&self, error: BackendError) -> BeginError {
        BeginError::Backend(self.kind.role(), error)
    }

    pub(super) fn spawn(&mut self, context: &SpawnContext<'_>) -> Result<OwnedFd, BackendError> {
        let (prepared, stream) = self.prepare_next(context)?;
        self.start_backend(context, prepared)?;
        Ok(stream)
    }

    fn prepare_next(
        &mut self,
        context: &SpawnContext<'_>,
    ) -> Result<(PreparedBackend, OwnedFd), BackendError> {
        let opened = self.take_opened()?;
        let tried = self.upgrade.as_ref().and_then(Upgrade::tried);
        let how = SpawnOptions {
            program: tried.or(self.program.as_ref()).map(AsFd::as_fd),
            after_crash: self.after_crash,
            awaits_sync: self.sync.has_predecessor(),
            anew: false,
        };
        self.kind.prepare(context, how, opened)
    }

    /// Drops our copies of the backend's descriptors: the I/O fence needs the backend to be their
    /// last holder.
    fn start_backend(
        &mut self,
        context: &SpawnContext<'_>,
        prepared: PreparedBackend,
    ) -> Result<(), BackendError> {
        let backend = self.kind.start(context, &prepared.resources)?;
        self.live(backend, prepared.pending_io);
        Ok(())
    }

    /// Registers a started backend under its process id, which the jailer must tell: that can wait
    /// until the vmm has its stream.
    pub(crate) fn register(&mut self, context: &SpawnContext<'_>) {
        if let Phase::Alive(life) = &mut self.phase
            && !life.registered
            && life.backend.identify(self.kind.id(), context.jailer)
        {
            self.note_registration();
        }
    }

    /// Notes once in the event log that the living backend was started: when its process id is
    /// known, or when it ends before that.
    pub(super) fn note_registration(&mut self) {
        if let Phase::Alive(life) = &mut self.phase
            && !std::mem::replace(&mut life.registered, true)
        {
            let pid = life.backend.pid();
            self.note(EventKind::BackendStarted, format!("pid {pid}"));
            self.answer_once_served();
        }
    }

    /// Answers the API client that asked for a backend, once that backend serves and has its
    /// process id.
    pub(super) fn answer_once_served(&mut self) {
        if let (Phase::Alive(life), true) = (&self.phase, self.connected)
            && life.registered
            && !self.stop_requested
            && self.upgrade.is_none()
        {
            self.outbox.push(DeviceAction::Answer(Ok(())));
        }
    }

    pub(super) fn live(&mut self, backend: Backend, pending_io: Box<dyn PendingIo>) {
        self.phase = Phase::Alive(Box::new(RunningBackend {
            backend,
            pending_io,
            watchdog: Watchdog::new(self.kind.queues()),
            complaints: Complaints::default(),
            registered: false,
        }));
        (self.connected, self.hung_up, self.stop_requested) = (false, false, false);
        self.sync.begin(self.kind.witness().is_some());
    }
}
