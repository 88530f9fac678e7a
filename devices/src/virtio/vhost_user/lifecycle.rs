// SPDX-License-Identifier: Apache-2.0
//! The queues of a driver: started on whatever backend is connected, stopped, reset.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::virtio::device::QueueIndex;
use crate::virtio::eventfd;
use crate::virtio::vhost_user::connection::Deadline;
use crate::virtio::vhost_user::events::{DeviceEvent, HostFault, LinkError, PeerFault};
use crate::virtio::vhost_user::reconnect::{self, Advertised};
use crate::virtio::vhost_user::spec::Origin;
use crate::virtio::vhost_user::worker::Worker;

impl Worker {
    /// Runs the queues, if there are any, they do not run yet, and there is who could run them.
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
        // The deadline borrows the command slot, which outlives all that happens here.
        let shared = Arc::clone(&self.shared);
        let deadline = Deadline::new(&shared.commands, shared.spec.timeouts.connect);
        let (Some(driver), Some(session)) = (&mut self.driver, &mut self.session) else {
            return;
        };
        let features = driver.activation.features;
        let region = self.inflight.as_ref().map(|region| (region, &shared.spec));
        let mut outcome = session.configure(&self.memory, features, &queues, region, deadline);
        if outcome.is_ok() {
            // From here on the queues may move.
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

    /// A queue of which nobody knows what was completed if the backend goes now: one that works in
    /// any order and keeps no record. To go on anywhere could repeat requests or leave some out.
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

    /// The queues run.
    fn started(&mut self) {
        self.running = true;
        let Some(driver) = &mut self.driver else {
            return;
        };
        if std::mem::replace(&mut driver.ran, true) {
            // The backend before may have used buffers without saying so.
            for queue in &driver.activation.queues {
                driver.activation.signals.used_buffers(queue.index);
            }
        }
        // The driver may have made some available with no one listening. A backend of ours looks
        // when a queue is enabled.
        if self.shared.spec.origin == Origin::Foreign {
            let queues = &driver.activation.queues;
            queues.iter().for_each(|queue| kick(&queue.events));
        }
        self.events.report(DeviceEvent::Running);
    }

    /// Stops the queues, once what is in progress has been completed.
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
        // A backend of ours answers when it has drained. Others answer at once, and complete later
        // what they had in progress (qemu-storage-daemon 10.0 does).
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

    /// Resets the device, as far as that is possible now: a backend of ours that vanished in the
    /// middle of it must be fenced first.
    pub(super) fn reset(&mut self) {
        if let Err(error) = self.stop() {
            self.disconnect(error);
        }
        // Nobody fences a foreign backend, so there is nothing to wait for: one that is lost must not
        // keep a guest from powering off. What it may still do to the guest's memory is the guest's
        // risk.
        let fenced_by_us = self.shared.spec.origin == Origin::Own;
        if !self.quiescent && fenced_by_us {
            return;
        }
        self.quiescent = true;
        // Requests of this driver session must not be repeated in the next.
        if let Some(region) = &self.inflight {
            region.clear();
        }
        if let Some(session) = &self.session {
            let spec = &self.shared.spec;
            let advertised = Advertised::new(spec, session.features(), session.config());
            self.shared.show(advertised);
        }
        (self.driver, self.resetting) = (None, false);
        self.shared.finish_reset();
    }

    /// Stops the queues until there is another backend, or until told otherwise.
    pub(super) fn drain(&mut self, report: bool) {
        if let Err(error) = self.stop() {
            self.disconnect(error);
        }
        if report && self.quiescent {
            self.events.report(DeviceEvent::Drained);
        }
    }

    /// Tells the driver that only a reset can help, and does nothing more until then.
    pub(super) fn fail(&mut self) {
        if let Err(error) = self.stop() {
            self.disconnect(error);
        }
        if let Some(driver) = &mut self.driver {
            driver.failed = true;
            driver.activation.signals.needs_reset();
        }
    }

    /// Passes on notifications that came by the slow way.
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
            // A backend of ours looks at a queue when it is enabled.
            outcome = outcome
                .and_then(|()| session.enable(queue.index, false, self.deadline()))
                .and_then(|()| session.enable(queue.index, true, self.deadline()));
        }
        if let Err(error) = outcome {
            self.disconnect(error);
        }
    }
}

/// Kicks a foreign backend. If it fills the eventfd in between and makes it blocking, this thread
/// waits, for which no kernel has a remedy: there is no RWF_NOWAIT for writes to eventfds. No one else
/// waits for it; its driver's reset, or another backend being attached, ends the wait.
fn kick(events: &eventfd::QueueEvents) {
    if eventfd::is_writable(&events.kick) {
        let _ = events.kick.write(1);
    }
}
