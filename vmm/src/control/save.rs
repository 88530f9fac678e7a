// SPDX-License-Identifier: Apache-2.0
//! Has the machine stand still and saves it, for the vmm that follows; or has it go on.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ipc::control::FromVmm;

use super::Control;
use crate::vcpu::kick::Kick;
use crate::virtio::Device;

/// How long devices may take to complete their requests before the machine is saved.
const HOLD_TIMEOUT: Duration = Duration::from_secs(10);

impl Control {
    /// Saves the state of the machine to a memfd. The guest stands still from here on, even if that fails.
    pub(super) fn save(&mut self, memfd: Option<OwnedFd>) -> FromVmm {
        self.gate.stop_all(&self.kicks, Kick::kick);
        self.held = true;
        match self.try_save(memfd) {
            Ok(()) => FromVmm::Saved,
            Err(why) => FromVmm::NotSaved(why),
        }
    }

    fn try_save(&self, memfd: Option<OwnedFd>) -> Result<(), String> {
        let memfd = memfd.ok_or("there is no memfd for the state")?;
        if self.end.reason().is_some() {
            return Err("the guest has ended".into());
        }
        self.devices.iter().for_each(Device::hold_queues);
        let begun = Instant::now();
        for device in &self.devices {
            let left = HOLD_TIMEOUT.saturating_sub(begun.elapsed());
            if !device.wait_until_held(left) {
                let seconds = HOLD_TIMEOUT.as_secs();
                return Err(format!(
                    "device {device} has not completed its requests within {seconds} s"
                ));
            }
        }
        self.saver.save(memfd).map_err(|e| host::log::chain(&e))
    }

    /// Has devices and console go on, if they rest.
    pub(super) fn release(&mut self) {
        if std::mem::take(&mut self.held) {
            self.devices.iter().for_each(Device::release_queues);
        }
    }
}
