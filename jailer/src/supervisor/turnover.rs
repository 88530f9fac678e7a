// SPDX-License-Identifier: Apache-2.0
//! What follows the death of a backend or of a vmm: the next one, when the last one's I/O has ended.

use std::os::fd::AsFd;

use launch::control::{DeviceNews, ToDevice, ToVmm};
use spec::api::VmState;

use super::devices::News;
use super::lifecycle::Order;
use super::{Supervisor, SupervisorError};
use crate::outcome::Outcome;

impl Supervisor {
    /// The vmm speaks of a device.
    pub(super) fn hear_of_device(&mut self, index: u8, news: &DeviceNews) {
        match (self.devices.slot(index), news) {
            (Some(slot), DeviceNews::Connected) => slot.connected(),
            (Some(slot), DeviceNews::Lost(_)) => slot.lost(),
            _ => {}
        }
    }

    /// A backend has something to say.
    pub(super) fn hear_backend(&mut self, index: u8) {
        if let Some(slot) = self.devices.slot(index) {
            slot.listen();
        }
    }

    /// A backend's process has ended.
    pub(super) fn backend_exited(&mut self, index: u8, now_ns: u64) {
        let slot = self.devices.slot(index);
        if let Some(news) = slot.and_then(|slot| slot.exited(now_ns)) {
            self.spread(index, news);
        }
    }

    /// Time has passed for the devices.
    pub(super) fn tick_devices(&mut self, now_ns: u64) {
        for (index, news) in self.devices.tick(&self.kit.means(), now_ns) {
            self.spread(index, news);
        }
    }

    fn spread(&mut self, index: u8, news: News) {
        match news {
            News::Attach(stream) => {
                let told = self
                    .vmm
                    .as_ref()
                    .map(|vmm| vmm.attach(index, stream.as_fd()));
                if let Some(Err(error)) = told {
                    log::warn!("{}", launch::log::chain(&error));
                }
            }
            News::Fenced => self.obey(Order::Tell(ToVmm::Device(index, ToDevice::Fenced))),
            News::Died(how) => self.backend_died(index, &how),
        }
    }

    /// A backend that dies before the guest runs will not get better: the VM does not start.
    fn backend_died(&mut self, index: u8, how: &str) {
        if self.lifecycle.running() != VmState::Starting || self.doom.is_some() {
            return;
        }
        if let Some(slot) = self.devices.slot(index) {
            let line = slot.fault(format!("its backend {how}"));
            self.doom = Some(line.to_string());
            self.obey(Order::Kill);
        }
    }

    /// Between two vmms there is nobody to tell: whoever wants the VM to end gets that.
    pub(super) fn obey_without_vmm(&mut self, order: Order) {
        match order {
            Order::Kill | Order::Tell(ToVmm::PowerButton) => self.outcome = Some(Outcome::ok()),
            Order::Nothing | Order::Tell(_) => {}
        }
    }

    /// Starts the next vmm as soon as nothing of the last one is left.
    pub(super) fn follow_up(&mut self) -> Result<(), SupervisorError> {
        match self.vmm.is_none() && self.outcome.is_none() && self.devices.are_idle() {
            true => self.spawn(),
            false => Ok(()),
        }
    }
}
