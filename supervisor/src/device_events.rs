// SPDX-License-Identifier: Apache-2.0
//! Hands to the devices what happens to them, and does what they ask for.

use std::os::fd::OwnedFd;

use ipc::control::{DeviceNews, ToDevice, ToVmm};
use ipc::slot::DeviceSlot;
use spec::api::{EventKind, VmState};

use super::Supervisor;
use super::devices::{Actions, AllActions, DeviceAction};
use super::lifecycle::Action;

impl Supervisor {
    /// Handles the vmm's message about a device.
    pub(super) fn hear_of_device(&mut self, slot: DeviceSlot, news: &DeviceNews, now_ns: u64) {
        // A guest may have been paused in the middle of a request: its samples say nothing.
        let paused = self.lifecycle.running() == VmState::Paused;
        if !(paused && matches!(news, DeviceNews::Outstanding(_))) {
            let actions = self.devices.hear(slot, news, now_ns);
            self.perform(slot, actions, now_ns);
        }
    }

    /// Reads the messages of a backend.
    pub(super) fn hear_backend(&mut self, slot: DeviceSlot) {
        if let Some(device) = self.devices.managed(slot) {
            device.listen();
        }
    }

    /// A backend's process has ended.
    pub(super) fn backend_exited(&mut self, slot: DeviceSlot, now_ns: u64) {
        if let Some(device) = self.devices.managed(slot) {
            let actions = device.exited(now_ns);
            self.perform(slot, actions, now_ns);
        }
    }

    /// Handles the deadlines of all devices.
    pub(super) fn tick_devices(&mut self, now_ns: u64) {
        if self.lifecycle.running() == VmState::Paused {
            // No backend counts as hung while the guest is paused.
            self.devices.rest(now_ns);
        }
        if let Some(vmm) = &mut self.vmm {
            vmm.identify(&self.context.jailer);
        }
        if self.lifecycle.is_deaf() {
            self.devices.postpone(now_ns);
        }
        let all = self.devices.tick(&self.context, now_ns);
        self.perform_all(all, now_ns);
    }

    /// Does what devices ask for.
    pub(super) fn perform_all(&mut self, all: AllActions, now_ns: u64) {
        for (slot, actions) in all {
            self.perform(slot, actions, now_ns);
        }
    }

    /// Does what a device asks for: of the vmm, of the event log, and of API clients.
    pub(super) fn perform(&mut self, slot: DeviceSlot, actions: Actions, now_ns: u64) {
        for action in actions {
            match action {
                DeviceAction::Attach(stream) => self.hand(slot, ToDevice::Attach, &stream),
                DeviceAction::Probe(stream) => self.hand(slot, ToDevice::Probe, &stream),
                DeviceAction::Tell(message) => {
                    self.obey(Action::Tell(ToVmm::Device(slot, message)));
                }
                DeviceAction::Died(how) => self.backend_died(slot, &how),
                DeviceAction::Event(kind, detail) => {
                    let id = self.devices.id(slot);
                    self.event_log.note(kind, id.as_deref(), &detail);
                    if kind == EventKind::BackendDied {
                        self.oom_watch.suspect(id, &self.context.jailer);
                    }
                }
                DeviceAction::Answer(outcome) => self.answer_device(slot, outcome, now_ns),
            }
        }
    }

    /// Sends the vmm a stream to a backend.
    fn hand(&mut self, slot: DeviceSlot, message: ToDevice, stream: &OwnedFd) {
        let vmm = self.vmm.as_ref();
        let told = vmm.map(|vmm| vmm.tell(ToVmm::Device(slot, message), Some(stream)));
        if let Some(Err(error)) = told {
            log::warn!("{}", host::log::chain(&error));
        }
    }

    /// Ends the VM if a backend dies before the guest has ever run: a restart would not help.
    fn backend_died(&mut self, slot: DeviceSlot, how: &str) {
        if !self.lifecycle.is_first_start() || self.startup_failure.is_some() {
            return;
        }
        if let Some(device) = self.devices.managed(slot) {
            let line = device.fault(format!("its backend {how}"));
            self.startup_failure = Some(line.to_string());
            self.obey(Action::Kill);
        }
    }
}
