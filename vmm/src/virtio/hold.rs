// SPDX-License-Identifier: Apache-2.0
//! A device whose vmm is replaced: the old vmm holds its queues, the next one has it show its driver the
//! same before it meets a backend. Called from the main thread.

use std::sync::Arc;
use std::time::Duration;

use devices::virtio::vhost_user::device::{DeviceState, VhostUserDevice};
use ipc::slot::DeviceSlot;

use super::{Device, VirtioError};
use crate::state::Parts;

impl Device {
    /// Connects the device to its first backend.
    pub fn connect(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.device.attach(stream);
        }
    }

    /// The device with its slot and its name.
    pub(crate) fn named(&self) -> (DeviceSlot, String, Arc<VhostUserDevice>) {
        (self.slot, self.id.clone(), self.device())
    }

    /// Shows the driver what the vmm before has shown it.
    pub(super) fn restore(&self, parts: &Parts) -> Result<(), VirtioError> {
        let state: DeviceState = parts.json("device", self.slot.number().into())?;
        let restored = self.device.restore(&state);
        restored.map_err(|source| VirtioError::Restore {
            id: self.id.clone(),
            source,
        })
    }

    /// Stops the queues until [`Self::release_queues`].
    pub(crate) fn hold_queues(&self) {
        self.device.hold_queues();
    }

    /// Waits until no backend uses the queues that are held; false on timeout.
    pub(crate) fn wait_until_held(&self, timeout: Duration) -> bool {
        self.device.wait_until_held(timeout)
    }

    /// Lets the queues run again.
    pub(crate) fn release_queues(&self) {
        self.device.release_queues();
    }
}
