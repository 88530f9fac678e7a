// SPDX-License-Identifier: Apache-2.0
//! What API clients ask of a device: its state, its link, another backend. Another program is in
//! [`super::upgrade`], the counters are in [`super::stats`].

use std::sync::atomic::Ordering::Relaxed;

use ipc::health::HAS_DRIVER;
use spec::api::{DeviceInfo, DeviceState, EventKind, ProcessInfo};

use super::{Actions, DeviceAction, ManagedDevice, Next, Phase, RestartDecision, Upgrade};

/// Why a press does not reach the guest.
const NO_DRIVER: &str = "the guest has no driver for its power button now (virtio_input): it is told \
                         once it has one; stop --force ends the VM";
const STALLED: &str = "no backend serves the power button: restart that device";

impl ManagedDevice {
    /// Replaces the backend, or starts one for a stalled device. Earlier crashes do not count any
    /// more.
    pub(crate) fn restart(&mut self, now_ns: u64) -> Result<Actions, String> {
        if self.is_retired() {
            return Err("the guest has ended or reboots".into());
        }
        if self.upgrade.is_some() {
            return Err("it is being upgraded".into());
        }
        let mut actions = Actions::default();
        actions.note(EventKind::RestartAsked, "");
        self.restarts.reset_backoff();
        match &mut self.phase {
            Phase::Alive(life) => {
                life.stop_requested = true;
                life.backend.kill();
            }
            Phase::Fencing {
                next: Next::Backend { when, .. },
                ..
            } => *when = RestartDecision::At(now_ns),
            Phase::Backoff { until_ns, .. } => *until_ns = now_ns,
            Phase::Failed { after_crash } => {
                self.phase = Phase::Backoff {
                    until_ns: now_ns,
                    after_crash: *after_crash,
                };
            }
            Phase::Idle | Phase::Fencing { .. } => {}
        }
        Ok(actions)
    }

    /// Plugs a NIC's cable in, or pulls it, for this backend and all that follow; false if the
    /// device is no NIC.
    pub(crate) fn set_link(&mut self, up: bool) -> bool {
        if !self.kind.set_link(up) {
            return false;
        }
        if let Phase::Alive(life) = &self.phase {
            life.backend.tell_link(up);
        }
        if let Some(candidate) = self.upgrade.as_ref().and_then(Upgrade::candidate) {
            candidate.tell_link(up);
        }
        true
    }

    /// Presses a power button, for this backend and all that follow.
    pub(crate) fn press(&mut self) {
        let Some(count) = self.kind.press() else {
            return;
        };
        if let Phase::Alive(life) = &self.phase {
            life.backend.tell_pressed(count);
        }
        if let Some(candidate) = self.upgrade.as_ref().and_then(Upgrade::candidate) {
            candidate.tell_pressed(count);
        }
    }

    /// Why the driver does not hear of a press now, if that is known. By the backend's own account.
    pub(crate) fn deafness(&self) -> Option<&'static str> {
        match &self.phase {
            Phase::Alive(life) if life.is_connected() => {
                let queue = &life.backend.process().health().queues[0];
                let has_driver = queue.flags.load(Relaxed) & HAS_DRIVER != 0;
                (!has_driver).then_some(NO_DRIVER)
            }
            Phase::Failed { .. } => Some(STALLED),
            // The next backend tells the driver.
            _ => None,
        }
    }

    /// Whether the link is up, if the device is a NIC.
    pub(crate) fn link_up(&self) -> Option<bool> {
        self.kind.link_up().map(|up| up && !self.is_unplugged())
    }

    /// Whether the backend has said that its tap was deleted.
    pub(crate) fn is_unplugged(&self) -> bool {
        matches!(&self.phase, Phase::Alive(life) if life.complaints.is_unplugged())
    }

    /// For `inspect`: the backend's process, if there is one.
    pub(crate) fn process(&self) -> Option<ProcessInfo> {
        match &self.phase {
            Phase::Alive(life) => {
                let restarts = self.restarts.total();
                Some(life.backend.process().info(self.kind.role(), restarts))
            }
            _ => None,
        }
    }

    /// For `inspect`: the device's state.
    pub(crate) fn info(&self) -> DeviceInfo {
        let state = match &self.phase {
            Phase::Alive(life) if !life.is_connected() => DeviceState::Connecting,
            Phase::Alive(life) if life.watchdog.is_slow() => DeviceState::Slow,
            Phase::Alive(_) => DeviceState::Serving,
            Phase::Fencing { .. } => DeviceState::Fencing,
            Phase::Backoff { .. } | Phase::Idle if self.opening.is_asked() => DeviceState::Opening,
            Phase::Backoff { .. } | Phase::Idle => DeviceState::Resting,
            Phase::Failed { .. } => DeviceState::Stalled,
        };
        DeviceInfo {
            id: self.kind.id().into(),
            role: self.kind.role(),
            state,
            restarts: self.restarts.total(),
            link_up: self.link_up(),
        }
    }

    /// Answers the API client that asked for a backend, once that backend serves and has its
    /// process id.
    pub(super) fn answer_once_served(&self, actions: &mut Actions) {
        if let Phase::Alive(life) = &self.phase
            && life.is_connected()
            && life.registered
            && !life.stop_requested
            && self.upgrade.is_none()
        {
            actions.push(DeviceAction::Answer(Ok(())));
        }
    }
}
