// SPDX-License-Identifier: Apache-2.0
//! What `inspect` says of a device.

use spec::api::{DeviceInfo, DeviceState, ProcessInfo};

use super::{ManagedDevice, Phase};

impl ManagedDevice {
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
}
