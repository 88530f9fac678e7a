// SPDX-License-Identifier: Apache-2.0
//! A device at the start of a vmm, which needs a first backend, and at its end.

use super::{Actions, CONNECT_NS, Connection, ManagedDevice, Next, Phase, Restarts};
use crate::devices::kind::{BackendError, PreparedBackend};
use crate::devices::{BeginError, Link, Start, socket_pair};
use crate::process::SpawnContext;

impl ManagedDevice {
    /// Prepares the first backend for a new vmm, and what the vmm gets for the device. If it cannot
    /// be prepared, and this is not the VM's first start, the vmm gets a stream with a closed peer,
    /// and the next backend follows as after a crash.
    pub(crate) fn prepare(
        &mut self,
        context: &SpawnContext,
        start: Start,
        actions: &mut Actions,
    ) -> Result<(Option<PreparedBackend>, Link), BeginError> {
        let inflight = match start.keeps {
            true => self.kind.keep()?,
            false => self.kind.renew()?,
        };
        self.restarts = Restarts::default();
        let (prepared, stream) = match self.prepare_next(context) {
            Ok((prepared, stream)) => (Some(prepared), stream),
            Err(error) if start.is_first => return Err(self.unborn(error)),
            Err(error) => {
                self.could_not_be(&error, start.now_ns, actions);
                let nowhere = socket_pair::nowhere();
                (None, nowhere.map_err(|error| self.unborn(error.into()))?)
            }
        };
        Ok((prepared, Link { stream, inflight }))
    }

    /// Starts the prepared backend.
    pub(crate) fn begin(
        &mut self,
        context: &SpawnContext,
        prepared: PreparedBackend,
        start: Start,
        actions: &mut Actions,
    ) -> Result<(), BeginError> {
        match self.start_backend(context, prepared) {
            // At the first start the vmm itself limits how long it waits.
            Ok(()) if start.is_first => {}
            Ok(()) => self.await_connection(start.now_ns + CONNECT_NS),
            Err(error) if start.is_first => return Err(self.unborn(error)),
            Err(error) => self.could_not_be(&error, start.now_ns, actions),
        }
        Ok(())
    }

    /// The vmm still builds its machine and connects to no backend: its time to do so starts anew.
    pub(crate) fn postpone(&mut self, now_ns: u64) {
        if let Phase::Alive(life) = &mut self.phase
            && life.connect_by_ns().is_some()
        {
            life.connection = Connection::Awaited(Some(now_ns + CONNECT_NS));
        }
    }

    fn unborn(&self, error: BackendError) -> BeginError {
        BeginError::Backend(self.kind.role(), error)
    }

    /// Kills the backend for good; the device is [`Self::is_idle`] once its I/O has ended, too.
    pub(crate) fn retire(&mut self) -> Actions {
        let mut actions = Actions::default();
        self.abandon("the guest has ended or rebooted", &mut actions);
        match &mut self.phase {
            Phase::Alive(life) => {
                life.retired = true;
                life.backend.kill();
            }
            Phase::Fencing { next, .. } => *next = Next::Idle,
            Phase::Backoff { .. } | Phase::Failed { .. } => self.phase = Phase::Idle,
            Phase::Idle => {}
        }
        actions
    }

    /// Whether the vmm has ended, or ends: no other backend follows.
    pub(super) fn is_retired(&self) -> bool {
        match &self.phase {
            Phase::Idle => true,
            Phase::Alive(life) => life.retired,
            Phase::Fencing { next, .. } => matches!(next, Next::Idle),
            Phase::Backoff { .. } | Phase::Failed { .. } => false,
        }
    }

    /// Whether a backend serves the device, and nothing is about to change that.
    pub(crate) fn is_steady(&self) -> bool {
        match &self.phase {
            Phase::Alive(life) => {
                life.is_connected() && !life.stop_requested && self.upgrade.is_none()
            }
            _ => false,
        }
    }

    /// Whether no backend runs and nothing is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle) && self.dying.is_empty()
    }

    /// Whether the first backend of a new vmm may start.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_idle() && self.is_opened()
    }
}
