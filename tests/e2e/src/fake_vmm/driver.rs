// SPDX-License-Identifier: Apache-2.0
//! The driver of a disk, on the device as a transport would have it.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use devices::virtio::device::{Activation, ActiveQueue, DriverSignals, QueueIndex, VirtioDevice};
use devices::virtio::eventfd::QueueEvents;
use devices::virtio::queue::QueueLayout;
use loadgen::connection::QueueFds;
use loadgen::disk::{Queue, QueueOptions};
use loadgen::memory::Memory;
use loadgen::ring::{Ring, RingOptions};
use vmm::virtio::Device;

use crate::vcpu::Vcpu;
use crate::{BLOCK_BYTES, Script};

/// What a current Linux driver takes: VERSION_1, EVENT_IDX, INDIRECT_DESC; SIZE_MAX, SEG_MAX, RO,
/// BLK_SIZE, FLUSH, TOPOLOGY, MQ, DISCARD, WRITE_ZEROES.
pub(crate) const DRIVER_FEATURES: u64 = 1 << 32
    | 1 << 29
    | 1 << 28
    | 1 << 1
    | 1 << 2
    | 1 << 5
    | 1 << 6
    | 1 << 9
    | 1 << 10
    | 1 << 12
    | 1 << 13
    | 1 << 14;

/// The queues that the driver uses.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) queues: Vec<Queue>,
}

/// Interrupts, as a driver without interrupt controllers gets them.
struct Signals(Vec<Arc<QueueFds>>);

impl DriverSignals for Signals {
    fn used_buffers(&self, queue: QueueIndex) {
        if let Some(fds) = self.0.get(usize::from(queue.0)) {
            let _ = fds.call.write(1);
        }
    }

    fn config_changed(&self) {}

    fn needs_reset(&self) {
        log::error!("the device needs a reset");
    }
}

/// Puts the queues into memory and lets the device run.
pub(crate) fn start(
    device: &Device,
    memory: &mut Memory,
    queues: u16,
    script: &Script,
    vcpu: &Vcpu,
) -> Result<Driver> {
    let options = QueueOptions {
        ring: RingOptions {
            size: script.queue_size,
            event_idx: true,
            start: 0,
        },
        depth: script.depth,
        buffer_bytes: BLOCK_BYTES,
        segments: 1,
        indirect: true,
    };
    let queues = (0..queues).map(|_| Queue::new(memory, options));
    let queues = queues.collect::<Result<Vec<_>, _>>()?;
    let notify = queues
        .iter()
        .map(|queue| Notify::of(Arc::clone(&queue.fds)));
    let notify = notify.collect::<Result<Vec<_>>>()?;
    let rings: Vec<_> = queues
        .iter()
        .map(|queue| &queue.ring)
        .zip(&notify)
        .collect();
    activate(device, DRIVER_FEATURES, &rings, vcpu)?;
    Ok(Driver { queues })
}

/// How the driver and a queue notify each other. As of a real device, this outlives resets: a vCPU
/// thread closes nothing.
pub(crate) struct Notify {
    pub(crate) fds: Arc<QueueFds>,
    events: Arc<QueueEvents>,
}

impl Notify {
    /// New eventfds.
    pub(crate) fn new() -> Result<Self> {
        Self::of(Arc::new(QueueFds::new()?))
    }

    /// On these.
    pub(crate) fn of(fds: Arc<QueueFds>) -> Result<Self> {
        let events = Arc::new(QueueEvents {
            kick: fds.kick.try_clone()?,
            call: fds.call.try_clone()?,
        });
        Ok(Self { fds, events })
    }
}

/// Lets the device run with these of its queues, the first ones, and as many of these features as it
/// has.
pub(crate) fn activate(
    device: &Device,
    features: u64,
    queues: &[(&Ring, &Notify)],
    vcpu: &Vcpu,
) -> Result<()> {
    let device = device.device();
    let active = (0..).zip(queues).map(|(index, (ring, notify))| {
        let [descriptors, driver, used] = ring.addresses();
        let layout = QueueLayout::new(ring.options().size, descriptors, driver, used);
        Ok(ActiveQueue {
            index: QueueIndex(index),
            layout: layout.context("a queue that cannot be")?,
            events: Arc::clone(&notify.events),
        })
    });
    let active = active.collect::<Result<Vec<_>>>()?;
    let fds = queues.iter().map(|(_, notify)| Arc::clone(&notify.fds));
    let activation = Activation {
        features: device.features() & features,
        queues: active,
        signals: Arc::new(Signals(fds.collect())),
    };
    vcpu.run(move || device.activate(activation));
    Ok(())
}
