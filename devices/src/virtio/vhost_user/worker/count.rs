// SPDX-License-Identifier: Apache-2.0
//! What a device's thread does once a second while the queues run.

use super::Worker;
use crate::virtio::vhost_user::events::{DeviceEvent, Outstanding};

impl Worker {
    /// Once a second, retries refused interrupt routes and reports outstanding requests.
    pub(super) fn count(&mut self) {
        if !self.sampler.is_due() {
            return;
        }
        let driver = self.driver.as_ref().filter(|_| self.running);
        if let Some(driver) = driver {
            driver.activation.signals.retry();
        }
        let queues = driver.map_or(&[][..], |driver| &driver.activation.queues);
        let outstanding = queues.iter().filter_map(|queue| {
            let spec = &self.shared.spec;
            let (layout, index) = (&queue.layout, queue.index);
            let avail = self.memory.avail_index(layout)?;
            let used = self.memory.used_index(layout)?;
            (spec.has_requests(index.0) && avail != used).then_some(Outstanding {
                queue: index,
                avail,
                used,
            })
        });
        let outstanding: Vec<_> = outstanding.collect();
        if self.sampler.is_news(!outstanding.is_empty()) {
            self.events.report(DeviceEvent::Outstanding(outstanding));
        }
    }
}
