// SPDX-License-Identifier: Apache-2.0
//! The device's thread: connects, starts and stops the queues, and detects when the backend goes
//! away.
//!
//! System calls: poll, sendmsg and recvmsg (on a stream it was given), preadv2 (on eventfds),
//! close, futex, those of the allocator, write (on an external backend's kick eventfds), and those
//! of the implementations of [`DeviceEvents`] and of the transport's traits.

mod count;
mod upgrade;

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::poll::{PollFd, PollFlags, poll};

use crate::virtio::device::{Activation, QueueIndex};
use crate::virtio::eventfd;
use crate::virtio::vhost_user::command_slot::Commands;
use crate::virtio::vhost_user::connection::Deadline;
use crate::virtio::vhost_user::device::Shared;
use crate::virtio::vhost_user::events::{DeviceEvent, DeviceEvents, LinkError};
use crate::virtio::vhost_user::frontend::Session;
use crate::virtio::vhost_user::inflight::InflightRegion;
use crate::virtio::vhost_user::memory::SharedMemory;
use crate::virtio::vhost_user::outstanding_sampler::OutstandingSampler;
use crate::virtio::vhost_user::reconnect::Advertised;

/// A driver's queues, from activation to reset.
#[derive(Debug)]
pub(super) struct DriverSession {
    pub(super) activation: Activation,
    /// The base indexes of queues that were stopped with GET_VRING_BASE and have not run since.
    pub(super) stopped: BTreeMap<QueueIndex, u16>,
    /// The queues have run at least once.
    pub(super) ran: bool,
    /// The device has set DEVICE_NEEDS_RESET.
    pub(super) failed: bool,
    /// A queue whose backend died without a record of its completed requests.
    pub(super) untracked: Option<QueueIndex>,
}

/// The body of a device's thread.
pub struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) memory: SharedMemory,
    pub(super) inflight: Option<InflightRegion>,
    pub(super) events: Arc<dyn DeviceEvents>,
    pub(super) session: Option<Session>,
    /// A backend that has been checked and can become the next one.
    candidate: Option<Session>,
    pub(super) driver: Option<DriverSession>,
    /// The queues run on the connected backend.
    pub(super) running: bool,
    /// No backend uses the queues: they never ran, were stopped, or their backend is fenced.
    pub(super) quiescent: bool,
    /// The driver waits for a reset to complete.
    pub(super) resetting: bool,
    /// The queues must stay stopped.
    draining: bool,
    /// The queues must stay stopped, whatever backend is attached.
    held: bool,
    sampler: OutstandingSampler,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("session", &self.session)
            .field("driver", &self.driver)
            .field("running", &self.running)
            .field("resetting", &self.resetting)
            .finish_non_exhaustive()
    }
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        memory: SharedMemory,
        inflight: Option<InflightRegion>,
        events: Arc<dyn DeviceEvents>,
    ) -> Self {
        Self {
            shared,
            memory,
            inflight,
            events,
            session: None,
            candidate: None,
            driver: None,
            running: false,
            quiescent: true,
            resetting: false,
            draining: false,
            held: false,
            sampler: OutstandingSampler::default(),
        }
    }

    /// Runs until the device is dropped.
    pub fn run(mut self) {
        loop {
            let pending = self.shared.commands.take();
            if pending.quit {
                return;
            }
            self.handle(pending);
            self.sleep();
        }
    }

    /// Waits for a command; meanwhile watches the backend and samples the outstanding requests.
    fn sleep(&mut self) {
        let shared = Arc::clone(&self.shared);
        shared.commands.wait_for_command(|| self.watch());
    }

    /// Waits until a command is posted, the backend sends something or hangs up, or a sample is
    /// due.
    fn watch(&mut self) {
        self.count();
        let wake = self.shared.commands.wake();
        let mut fds = vec![PollFd::new(eventfd::borrow(wake), PollFlags::POLLIN)];
        if let Some(session) = &self.session {
            fds.push(PollFd::new(session.as_fd(), PollFlags::POLLIN));
        }
        if poll(&mut fds, self.sampler.timeout(self.running)).is_err() {
            return;
        }
        let disturbed = fds.get(1).is_some_and(|fd| fd.any() == Some(true));
        eventfd::drain(wake);
        if let (true, Some(session)) = (disturbed, &self.session) {
            let error = session.unasked();
            self.disconnect(error);
        }
    }

    fn handle(&mut self, pending: Commands) {
        self.held = pending.hold.unwrap_or(self.held);
        if let Some(activation) = pending.activation {
            self.driver = Some(DriverSession {
                activation,
                stopped: BTreeMap::new(),
                // A driver that is ready while the queues are held was ready in the vmm before.
                ran: self.held,
                failed: self.held && self.shared.failed.load(Ordering::SeqCst),
                untracked: None,
            });
        }
        self.resetting |= pending.reset;
        if pending.fenced || pending.switch || pending.stream.is_some() {
            (self.session, self.running, self.quiescent) = (None, false, true);
        }
        self.draining = pending.drain.unwrap_or(self.draining);
        if let Some(stream) = pending.stream {
            self.draining = false;
            self.candidate = None;
            self.connect(stream);
        } else if pending.switch {
            self.draining = false;
            self.succeed();
        }
        if let Some(stream) = pending.probe {
            self.probe(stream);
        }
        if let (true, Some(driver)) = (pending.config_changed, &self.driver) {
            driver.activation.signals.config_changed();
        }
        if self.resetting {
            self.reset();
        }
        if self.resetting {
            // The backend's I/O must be fenced first.
        } else if self.draining || self.held {
            self.drain(pending.drain == Some(true));
        } else {
            self.start();
        }
        if self.held {
            let is_still = !self.resetting && !self.running && self.quiescent;
            self.shared.set_held(is_still);
        }
        self.notify(&pending.notified);
    }

    pub(super) fn deadline(&self) -> Deadline<'_> {
        let timeout = self.shared.spec.timeouts.connect;
        Deadline::new(&self.shared.commands, timeout)
    }

    /// Drops the connection and reports the fault.
    pub(super) fn disconnect(&mut self, error: LinkError) {
        let untracked = self.untracked();
        if let Some(driver) = &mut self.driver {
            driver.untracked = driver.untracked.or(untracked);
        }
        (self.session, self.running) = (None, false);
        match error {
            LinkError::Peer(fault) => self.events.report(DeviceEvent::Lost(fault)),
            LinkError::Host(fault) => self.events.report(DeviceEvent::Failed(fault)),
            LinkError::Interrupted => {}
        }
    }

    /// Connects to a new backend, which must be able to take over from the previous one.
    fn connect(&mut self, stream: OwnedFd) {
        match self.judge(stream) {
            Ok(session) => {
                self.session = Some(session);
                self.shared.connected();
                self.events.report(DeviceEvent::Connected);
            }
            Err(error) => self.disconnect(error),
        }
    }

    fn judge(&self, stream: OwnedFd) -> Result<Session, LinkError> {
        let spec = &self.shared.spec;
        let has_region = self.inflight.is_some();
        let session = Session::open(stream, spec, has_region, self.deadline())?;
        let advertised = Advertised::new(spec, session.features(), session.config());
        match self.shared.shown() {
            Some(shown) => {
                let driver = self.driver.as_ref().filter(|_| !self.resetting);
                let acked = driver.map(|driver| driver.activation.features);
                shown.continues_with(&advertised, acked)?;
            }
            None => self.shared.show(advertised),
        }
        Ok(session)
    }
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod hold_tests;
#[cfg(test)]
mod nic_tests;
#[cfg(test)]
mod reset_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upgrade_tests;
