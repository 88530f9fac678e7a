// SPDX-License-Identifier: Apache-2.0
//! What a device hears about its living backend: from the backend, from the vmm, and from the
//! watchdog.

use ipc::control::{DeviceNews, QueueSample};
use spec::api::EventKind;

use super::{
    Actions, Connection, DeviceAction, ManagedDevice, Phase, RunningBackend, ToDevice, Upgrade,
};
use crate::devices::watchdog::WatchdogEvent;

impl ManagedDevice {
    /// Reads the messages of the backend and of the candidate.
    pub(crate) fn listen(&mut self) {
        let id = self.kind.id();
        if let Phase::Alive(life) = &mut self.phase {
            life.hung_up |= life.backend.listen(id);
        }
        if let Some(candidate) = self.upgrade.as_mut().and_then(Upgrade::candidate_mut) {
            candidate.listen(id);
        }
    }

    /// Handles the vmm's message about the device.
    pub(crate) fn hear(&mut self, news: &DeviceNews, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        match news {
            DeviceNews::Connected => self.connected(now_ns, &mut actions),
            DeviceNews::Lost(why) => self.lost(why, &mut actions),
            DeviceNews::Drained => self.drained(),
            DeviceNews::Compatible => self.compatible(now_ns, &mut actions),
            DeviceNews::Incompatible(why) => self.incompatible(why, &mut actions),
            DeviceNews::Outstanding(samples) => self.sample(samples, &mut actions),
            DeviceNews::Running | DeviceNews::Failed(_) | DeviceNews::Guest(_) => {}
        }
        actions
    }

    /// The vmm has connected to the backend.
    fn connected(&mut self, now_ns: u64, actions: &mut Actions) {
        let Phase::Alive(life) = &mut self.phase else {
            return;
        };
        life.watchdog.begin(now_ns);
        life.connection = Connection::Made;
        actions.note(EventKind::BackendConnected, "");
        self.answer_once_served(actions);
    }

    /// The vmm cannot use the backend. If the vmm had not connected to it yet, the message may be
    /// about the backend before it: the deadline decides then.
    fn lost(&mut self, why: &str, actions: &mut Actions) {
        if let Phase::Alive(life) = &self.phase
            && life.is_connected()
        {
            // The vmm often notices the end of an externally killed backend before we do.
            life.backend.terminate();
            if !life.stop_requested {
                actions.note(EventKind::BackendLost, why);
            }
        }
    }

    /// The vmm samples what the driver waits for.
    fn sample(&mut self, samples: &[QueueSample], actions: &mut Actions) {
        if let Phase::Alive(life) = &mut self.phase
            && life.is_connected()
        {
            // A flush that waits for the answer of the oldest opening waits for the storage.
            let waits = self.sync.is_waited_for();
            let pending_io = &life.pending_io;
            let busy = |queue| match waits {
                true => Some(true),
                false => pending_io.is_busy(queue),
            };
            let event = life
                .watchdog
                .sample(samples, life.backend.process().health(), busy);
            life.follow(event, actions);
        }
    }

    /// Kills a backend to which the vmm does not connect in time.
    pub(super) fn tick_connection(&mut self, now_ns: u64, actions: &mut Actions) {
        if let Phase::Alive(life) = &mut self.phase
            && life
                .connect_by_ns()
                .is_some_and(|until_ns| until_ns <= now_ns)
        {
            life.connection = Connection::Awaited(None);
            actions.note(EventKind::BackendLost, "the vmm did not connect to it");
            life.backend.kill();
        }
    }

    /// Looks at the health page of a backend that serves. Without its tap a NIC's link goes down
    /// for the guest.
    pub(super) fn tick_watchdog(&mut self, now_ns: u64, actions: &mut Actions) {
        let is_disk = self.kind.link_up().is_none();
        if let Phase::Alive(life) = &mut self.phase
            && life.is_connected()
        {
            let page = life.backend.process().health();
            let event = life.watchdog.tick(page, now_ns);
            let complaint = life.complaints.look(page, is_disk, now_ns);
            life.follow(event, actions);
            if let Some((kind, detail)) = complaint {
                if kind == EventKind::TapGone {
                    actions.push(DeviceAction::Tell(ToDevice::Link(false)));
                }
                actions.note(kind, detail);
            }
        }
    }
}

impl RunningBackend {
    fn follow(&mut self, event: WatchdogEvent, actions: &mut Actions) {
        match event {
            WatchdogEvent::Fine => {}
            WatchdogEvent::Ping(number) => self.backend.ping(number),
            WatchdogEvent::Hung(how) => {
                self.backend.kill();
                actions.note(EventKind::BackendHung, how);
            }
            WatchdogEvent::Slow(how) => actions.note(EventKind::Slow, how),
            WatchdogEvent::SlowNoMore => actions.note(EventKind::SlowNoMore, ""),
        }
    }
}
