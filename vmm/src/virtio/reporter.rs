// SPDX-License-Identifier: Apache-2.0
//! Reports a device thread's events to the supervisor and to the log.

use std::sync::Arc;

use devices::virtio::vhost_user::events::{DeviceEvent, DeviceEvents, Outstanding};
use ipc::control::{Channel, DeviceNews, FromVmm, QueueSample};
use ipc::slot::DeviceSlot;
use log::{error, warn};

use super::throttle::Throttle;

/// Reports a device's events.
pub(super) struct Reporter {
    slot: DeviceSlot,
    id: String,
    supervisor: Arc<Channel>,
    runs: Throttle,
    faults: Throttle,
}

impl Reporter {
    pub(super) fn new(slot: DeviceSlot, id: &str, supervisor: &Arc<Channel>) -> Self {
        Self {
            slot,
            id: id.to_owned(),
            supervisor: Arc::clone(supervisor),
            runs: Throttle::default(),
            faults: Throttle::default(),
        }
    }

    /// Whether to report an event. A driver that resets its device in a loop can cause some of them
    /// at any rate; they must not crowd out those that the supervisor acts on.
    fn is_due(&self, event: &DeviceEvent) -> bool {
        let throttle = match event {
            DeviceEvent::Running => &self.runs,
            DeviceEvent::Guest(_) => &self.faults,
            _ => return true,
        };
        throttle.take(host::clock::monotonic_ns())
    }
}

impl DeviceEvents for Reporter {
    fn report(&self, event: DeviceEvent) {
        if !self.is_due(&event) {
            return;
        }
        let id = &self.id;
        let news = match event {
            DeviceEvent::Connected => DeviceNews::Connected,
            DeviceEvent::Running => DeviceNews::Running,
            DeviceEvent::Drained => DeviceNews::Drained,
            DeviceEvent::Lost(fault) => DeviceNews::Lost(host::log::chain(&fault)),
            DeviceEvent::Failed(fault) => DeviceNews::Failed(host::log::chain(&fault)),
            DeviceEvent::Compatible => DeviceNews::Compatible,
            DeviceEvent::Incompatible(fault) => DeviceNews::Incompatible(host::log::chain(&fault)),
            DeviceEvent::Outstanding(queues) => DeviceNews::Outstanding(samples(&queues)),
            DeviceEvent::Guest(fault) => DeviceNews::Guest(host::log::chain(&fault)),
        };
        match &news {
            DeviceNews::Lost(why) | DeviceNews::Guest(why) => warn!(device_id = id; "{why}"),
            DeviceNews::Failed(why) => error!(device_id = id; "{why}"),
            _ => {}
        }
        if let Err(e) = self.supervisor.send(&FromVmm::Device(self.slot, news)) {
            error!(device_id = id; "{}", host::log::chain(&e));
        }
    }
}

fn samples(queues: &[Outstanding]) -> Vec<QueueSample> {
    let samples = queues.iter().map(|sample| QueueSample {
        queue: sample.queue.0,
        avail: sample.avail,
        used: sample.used,
    });
    samples.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use devices::virtio::device::QueueIndex;
    use devices::virtio::vhost_user::events::{GuestFault, PeerFault};

    #[test]
    fn driver_that_resets_in_a_loop_does_not_crowd_out_other_news() {
        let (vmm, supervisor) = Channel::pair().unwrap();
        let slot = DeviceSlot::new(3).unwrap();
        let reporter = Reporter::new(slot, "disk0", &Arc::new(vmm));
        for _ in 0..100_000 {
            reporter.report(DeviceEvent::Running);
            let fault = GuestFault::QueueOutsideMemory(QueueIndex(0));
            reporter.report(DeviceEvent::Guest(fault));
        }
        reporter.report(DeviceEvent::Lost(PeerFault::Closed));
        drop(reporter);

        let mut heard = 0;
        loop {
            let message = supervisor.receive().unwrap().unwrap();
            if matches!(message, FromVmm::Device(of, DeviceNews::Lost(_)) if of == slot) {
                break;
            }
            heard += 1;
        }
        // Two kinds, once a second each, for as long as this took.
        assert!(heard < 100, "{heard} messages");
    }
}
