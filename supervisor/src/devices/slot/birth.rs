// SPDX-License-Identifier: Apache-2.0
//! How a device comes by a backend: from what is opened to one that lives and is known by its number.

use std::os::fd::{AsFd, OwnedFd};

use spec::api::EventKind;

use super::{CONNECT_NS, Life, News, Phase, Slot, Upgrade};
use crate::devices::backend::Backend;
use crate::devices::complaints::Complaints;
use crate::devices::kind::{BackendError, Birth, How, Means, Remains};
use crate::devices::restarts::Restarts;
use crate::devices::watch::Watch;
use crate::devices::{BeginError, Link, Start, rendezvous};

impl Slot {
    /// Prepares the first backend for a fresh vmm, and what the vmm gets for the device. If there can
    /// be none now, and it is not the VM's first start, the vmm gets a stream that leads nowhere, and
    /// the next backend follows as after a crash.
    pub(crate) fn prepare(
        &mut self,
        means: &Means<'_>,
        start: Start,
    ) -> Result<(Option<Birth>, Link), BeginError> {
        let inflight = self.kind.renew()?;
        self.restarts = Restarts::default();
        (self.retiring, self.after_crash) = (false, false);
        let (birth, stream) = match self.prepare_next(means) {
            Ok((birth, stream)) => (Some(birth), stream),
            Err(error) if start.is_first => return Err(self.unborn(error)),
            Err(error) => {
                self.could_not_be(&error, start.now_ns);
                let nowhere = rendezvous::nowhere();
                (None, nowhere.map_err(|error| self.unborn(error.into()))?)
            }
        };
        Ok((birth, Link { stream, inflight }))
    }

    /// Starts it.
    pub(crate) fn begin(
        &mut self,
        means: &Means<'_>,
        birth: Birth,
        start: Start,
    ) -> Result<(), BeginError> {
        match self.bear(means, birth) {
            // At the first start it is the vmm that waits no longer than it takes.
            Ok(()) => self.deadline_ns = (!start.is_first).then(|| start.now_ns + CONNECT_NS),
            Err(error) if start.is_first => return Err(self.unborn(error)),
            Err(error) => self.could_not_be(&error, start.now_ns),
        }
        Ok(())
    }

    /// The vmm still builds its machine and connects to nobody: its time to do so begins later.
    pub(crate) fn postpone(&mut self, now_ns: u64) {
        if let Some(deadline_ns) = &mut self.deadline_ns {
            *deadline_ns = now_ns + CONNECT_NS;
        }
    }

    fn unborn(&self, error: BackendError) -> BeginError {
        BeginError::Backend(self.kind.role(), error)
    }

    pub(super) fn spawn(&mut self, means: &Means<'_>) -> Result<OwnedFd, BackendError> {
        let (birth, stream) = self.prepare_next(means)?;
        self.bear(means, birth)?;
        Ok(stream)
    }

    fn prepare_next(&mut self, means: &Means<'_>) -> Result<(Birth, OwnedFd), BackendError> {
        let opened = self.take_opened()?;
        let tried = self.upgrade.as_ref().and_then(Upgrade::tried);
        let how = How {
            program: tried.or(self.program.as_ref()).map(AsFd::as_fd),
            after_crash: self.after_crash,
            awaits_sync: self.sync.has_predecessor(),
            anew: false,
        };
        self.kind.prepare(means, how, opened)
    }

    /// What the backend got is dropped here: it shall be the last to hold it.
    fn bear(&mut self, means: &Means<'_>, birth: Birth) -> Result<(), BackendError> {
        let backend = self.kind.start(means, &birth.outfit)?;
        self.live(backend, birth.remains);
        Ok(())
    }

    /// Makes a backend that was started known by its process id, for which the jailer is to be asked:
    /// that can wait until the vmm has its stream.
    pub(crate) fn introduce(&mut self, means: &Means<'_>) {
        if let Phase::Alive(life) = &mut self.phase
            && !life.introduced
            && life.backend.identify(self.kind.id(), means.jailer)
        {
            self.note_introduction();
        }
    }

    /// Says once of the living backend that it was started: when its process id is known, or when it
    /// ends before that.
    pub(super) fn note_introduction(&mut self) {
        if let Phase::Alive(life) = &mut self.phase
            && !std::mem::replace(&mut life.introduced, true)
        {
            let pid = life.backend.pid();
            self.note(EventKind::BackendStarted, format!("pid {pid}"));
            self.answer_once_served();
        }
    }

    /// Whoever asked for a backend is told when it serves and is known.
    pub(super) fn answer_once_served(&mut self) {
        if let (Phase::Alive(life), true) = (&self.phase, self.connected)
            && life.introduced
            && !self.planned
            && self.upgrade.is_none()
        {
            self.outbox.push(News::Answer(Ok(())));
        }
    }

    pub(super) fn live(&mut self, backend: Backend, remains: Box<dyn Remains>) {
        self.phase = Phase::Alive(Box::new(Life {
            backend,
            remains,
            watch: Watch::new(self.kind.queues()),
            complaints: Complaints::default(),
            introduced: false,
        }));
        (self.connected, self.hung_up, self.planned) = (false, false, false);
        self.sync.begin(self.kind.witness().is_some());
    }
}
