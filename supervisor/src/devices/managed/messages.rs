// SPDX-License-Identifier: Apache-2.0
//! What a device hears about its living backend: from the backend, from the vmm, and from the
//! watchdog.

use ipc::control::{FromBackend, QueueSample};
use spec::api::EventKind;

use super::{ManagedDevice, Phase, RunningBackend, Upgrade};
use crate::devices::backend::{Backend, Incoming};
use crate::devices::watchdog::WatchdogEvent;

impl ManagedDevice {
    /// Reads the messages of the backend and of the candidate.
    pub(crate) fn listen(&mut self) {
        let id = self.kind.id();
        if let Phase::Alive(life) = &mut self.phase {
            self.hung_up |= hear(id, &mut life.backend);
        }
        if let Some(candidate) = self.upgrade.as_mut().and_then(Upgrade::candidate_mut) {
            hear(id, candidate);
        }
    }

    /// The vmm has connected to the backend.
    pub(crate) fn connected(&mut self, now_ns: u64) {
        let Phase::Alive(life) = &mut self.phase else {
            return;
        };
        life.watchdog.begin(now_ns);
        self.connected = true;
        self.deadline_ns = None;
        self.note(EventKind::BackendConnected, "");
        self.answer_once_served();
    }

    /// The vmm cannot use the backend. If the vmm had not connected to it yet, the message may be
    /// about the backend before it: the deadline decides then.
    pub(crate) fn lost(&mut self, why: &str) {
        if let (Phase::Alive(life), true) = (&self.phase, self.connected) {
            // The vmm often notices the end of an externally killed backend before we do.
            life.backend.terminate();
            if !self.stop_requested {
                self.note(EventKind::BackendLost, why);
            }
        }
    }

    /// The vmm samples what the driver waits for.
    pub(crate) fn waits(&mut self, samples: &[QueueSample]) {
        if let (Phase::Alive(life), true) = (&mut self.phase, self.connected) {
            let RunningBackend {
                backend,
                pending_io,
                watchdog,
                ..
            } = &mut **life;
            // A flush that waits for the answer of the oldest opening waits for the storage.
            let waits = self.sync.is_waited_for();
            let busy = |queue| {
                if waits {
                    Some(true)
                } else {
                    pending_io.is_busy(queue)
                }
            };
            let event = watchdog.sample(samples, backend.health(), busy);
            self.follow(event);
        }
    }

    pub(super) fn follow(&mut self, event: WatchdogEvent) {
        let Phase::Alive(life) = &mut self.phase else {
            return;
        };
        match event {
            WatchdogEvent::Fine => {}
            WatchdogEvent::Ping(number) => life.backend.ping(number),
            WatchdogEvent::Hung(how) => {
                life.backend.kill();
                self.note(EventKind::BackendHung, how);
            }
            WatchdogEvent::Slow(how) => self.note(EventKind::Slow, how),
            WatchdogEvent::SlowNoMore => self.note(EventKind::SlowNoMore, ""),
        }
    }
}

/// Reads a backend's messages; returns whether it said that the vmm hung up.
fn hear(id: &str, backend: &mut Backend) -> bool {
    let mut hung_up = false;
    for heard in backend.listen() {
        match heard {
            Incoming::Message(message) => {
                log::info!(device_id = id; "the backend says {message:?}");
                hung_up |= message == FromBackend::Hangup;
            }
            Incoming::Malformed(what) => {
                log::error!(device_id = id; "its backend is killed: {what}");
                backend.kill();
            }
        }
    }
    hung_up
}
