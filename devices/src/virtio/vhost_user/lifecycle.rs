// SPDX-License-Identifier: Apache-2.0
//! The queues of a driver: started on the connected backend, stopped, reset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::virtio::device::QueueIndex;
use crate::virtio::eventfd;
use crate::virtio::vhost_user::connection::Deadline;
use crate::virtio::vhost_user::events::{DeviceEvent, HostFault, LinkError, PeerFault};
use crate::virtio::vhost_user::reconnect::{self, Advertised};
use crate::virtio::vhost_user::spec::Origin;
use crate::virtio::vhost_user::worker::Worker;

impl Worker {
    /// Starts the queues if the driver has activated them, a backend is connected, and they do not
    /// run yet.
    pub(super) fn start(&mut self) {
        let (Some(driver), Some(_), false) = (&self.driver, &self.session, self.running) else {
            return;
        };
        if driver.failed {
            return;
        }
        let queues = &driver.activation.queues;
        let queues = match reconnect::bases(&self.memory, queues, &driver.stopped) {
            Ok(queues) => queues,
            Err(fault) => {
                self.events.report(DeviceEvent::Guest(fault));
                return self.fail();
            }
        };
        if let Some(queue) = driver.untracked {
            self.events
                .report(DeviceEvent::Failed(HostFault::Forgotten(queue)));
            return self.fail();
        }
        // The deadline borrows the command slot, which outlives this function.
        let shared = Arc::clone(&self.shared);
        let deadline = Deadline::new(&shared.commands, shared.spec.timeouts.connect);
        let (Some(driver), Some(session)) = (&mut self.driver, &mut self.session) else {
            return;
        };
        let features = driver.activation.features;
        let region = self.inflight.as_ref().map(|region| (region, &shared.spec));
        let mut outcome = session.configure(&self.memory, features, &queues, region, deadline);
        if outcome.is_ok() {
            // From here on the backend may use the queues.
            self.quiescent = false;
            driver.stopped.clear();
            outcome = queues
                .iter()
                .try_for_each(|(queue, _)| session.enable(queue.index, true, deadline));
        }
        match outcome {
            Ok(()) => self.started(),
            Err(error) => self.disconnect(error),
        }
    }

    /// A queue whose completed requests would be unknown if the backend died now: its backend
    /// completes out of order and keeps no record. Continuing at any index could repeat or lose
    /// requests.
    pub(super) fn untracked(&self) -> Option<QueueIndex> {
        let (driver, session) = (self.driver.as_ref()?, self.session.as_ref()?);
        let spec = &self.shared.spec;
        if spec.origin == Origin::Own || spec.works_in_order() || session.tracks() {
            return None;
        }
        let mut queues = driver.activation.queues.iter().filter(|_| self.running);
        let waiting = queues.find(|queue| {
            let layout = &queue.layout;
            self.memory.avail_index(layout) != self.memory.used_index(layout)
        });
        waiting.map(|queue| queue.index)
    }

    /// The queues run: interrupts, kicks and reports.
    fn started(&mut self) {
        self.running = true;
        let Some(driver) = &mut self.driver else {
            return;
        };
        if std::mem::replace(&mut driver.ran, true) {
            // The previous backend may have used buffers without sending the interrupt.
            for queue in &driver.activation.queues {
                driver.activation.signals.used_buffers(queue.index);
            }
        }
        // The driver may have made buffers available while no backend was connected. A backend of
        // ours checks a queue when it is enabled.
        if self.shared.spec.origin == Origin::Foreign {
            let queues = &driver.activation.queues;
            queues.iter().for_each(|queue| kick(&queue.events));
        }
        self.events.report(DeviceEvent::Running);
    }

    /// Stops the queues, once the requests in progress are completed.
    fn stop(&mut self) -> Result<(), LinkError> {
        let (Some(driver), Some(session), true) = (&self.driver, &self.session, self.running)
        else {
            return Ok(());
        };
        let deadline = self.deadline();
        let slow = Deadline::new(&self.shared.commands, self.shared.spec.timeouts.drain);
        let queues = &driver.activation.queues;
        let mut stopped = BTreeMap::new();
        for queue in queues {
            session.enable(queue.index, false, deadline)?;
        }
        for queue in queues {
            stopped.insert(queue.index, session.stop(queue.index, slow)?);
        }
        // A backend of ours replies when it has drained. Others may reply first and complete their
        // requests in progress later (as qemu-storage-daemon 10.0 does).
        let queues = queues
            .iter()
            .filter(|_| self.shared.spec.origin == Origin::Foreign);
        for queue in queues {
            let base = stopped.get(&queue.index).copied().unwrap_or_default();
            let settled = || reconnect::is_settled(&self.memory, queue, base);
            if !slow.wait_until(settled)? {
                return Err(PeerFault::Unfinished(queue.index).into());
            }
        }
        (self.running, self.quiescent) = (false, true);
        if let Some(driver) = &mut self.driver {
            driver.stopped = stopped;
        }
        Ok(())
    }

    /// Resets the device if possible now: if a backend of ours has died meanwhile, the supervisor
    /// must fence its I/O first.
    pub(super) fn reset(&mut self) {
        if let Err(error) = self.stop() {
            self.disconnect(error);
        }
        // The supervisor does not fence an external backend, so do not wait: a lost backend must
        // not keep a guest from powering off. The guest bears the risk of what that backend may
        // still write to its memory.
        let fenced_by_us = self.shared.spec.origin == Origin::Own;
        if !self.quiescent && fenced_by_us {
            return;
        }
        self.quiescent = true;
        // The next driver session must not repeat requests of this one.
        if let Some(region) = &self.inflight {
            region.clear();
        }
        if let Some(session) = &self.session {
            let spec = &self.shared.spec;
            let advertised = Advertised::new(spec, session.features(), session.config());
            self.shared.show(advertised);
        }
        (self.driver, self.resetting) = (None, false);
        self.shared.failed.store(false, Ordering::SeqCst);
        self.shared.finish_reset();
    }

    /// Stops the queues until another backend is attached or the supervisor resumes them.
    pub(super) fn drain(&mut self, report: bool) {
        if let Err(error) = self.stop() {
            self.disconnect(error);
        }
        if report && self.quiescent {
            self.events.report(DeviceEvent::Drained);
        }
    }

    /// Sets DEVICE_NEEDS_RESET, and stops the device until the driver has reset it.
    pub(super) fn fail(&mut self) {
        if let Err(error) = self.stop() {
            self.disconnect(error);
        }
        if let Some(driver) = &mut self.driver {
            self.shared.failed.store(true, Ordering::SeqCst);
            driver.failed = true;
            driver.activation.signals.needs_reset();
        }
    }

    /// Passes on notifications that did not come through a doorbell.
    pub(super) fn notify(&mut self, notified: &BTreeSet<QueueIndex>) {
        let (Some(driver), Some(session), true) = (&self.driver, &self.session, self.running)
        else {
            return;
        };
        let mut outcome = Ok(());
        for queue in &driver.activation.queues {
            if !notified.contains(&queue.index) {
                continue;
            }
            if self.shared.spec.origin == Origin::Foreign {
                kick(&queue.events);
                continue;
            }
            // A backend of ours checks a queue when it is enabled.
            outcome = outcome
                .and_then(|()| session.enable(queue.index, false, self.deadline()))
                .and_then(|()| session.enable(queue.index, true, self.deadline()));
        }
        if let Err(error) = outcome {
            self.disconnect(error);
        }
    }
}

/// Kicks an external backend. If the backend fills the eventfd meanwhile and makes it blocking,
/// this thread blocks: Linux has no RWF_NOWAIT for writes to eventfds. No other thread waits for
/// it; a reset by the driver, or attaching another backend, unblocks it.
fn kick(events: &eventfd::QueueEvents) {
    if eventfd::is_writable(&events.kick) {
        let _ = events.kick.write(1);
    }
}
