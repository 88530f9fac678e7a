// SPDX-License-Identifier: Apache-2.0
//! The doorbells of a device's queues: registers an ioeventfd for each queue that was ever enabled,
//! at its current address. Unregisters them only when the registers move, because that is slow.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::bus::Doorbells;
use crate::virtio::device::QueueIndex;
use crate::virtio::eventfd::QueueEvents;
use crate::virtio::transport::pci::layout;

#[derive(Debug)]
struct Doorbell {
    events: Arc<QueueEvents>,
    wanted: bool,
    registered: Option<u64>,
}

impl Doorbell {
    /// Moves the doorbell to `wanted`. `registered` is its actual address, even after an error;
    /// without a doorbell the driver's writes cause exits.
    fn bring_to(&mut self, wanted: Option<u64>, doorbells: &dyn Doorbells) -> io::Result<()> {
        let kick = &self.events.kick;
        if let Some(address) = self.registered {
            doorbells.unregister(address, kick)?;
            self.registered = None;
        }
        if let Some(address) = wanted {
            doorbells.register(address, kick)?;
            self.registered = wanted;
        }
        Ok(())
    }
}

pub(super) struct QueueDoorbells {
    doorbells: Arc<dyn Doorbells>,
    queues: Vec<Doorbell>,
    base: Option<u64>,
    faulted: bool,
}

impl fmt::Debug for QueueDoorbells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueDoorbells")
            .field("queues", &self.queues)
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl QueueDoorbells {
    /// Doorbells, none of which is registered.
    pub(super) fn new(doorbells: Arc<dyn Doorbells>, queues: &[Arc<QueueEvents>]) -> Self {
        let doorbell = |events: &Arc<QueueEvents>| Doorbell {
            events: Arc::clone(events),
            wanted: false,
            registered: None,
        };
        Self {
            doorbells,
            queues: queues.iter().map(doorbell).collect(),
            base: None,
            faulted: false,
        }
    }

    /// Called when the registers move to `base`, or are disabled.
    pub(super) fn set_base(&mut self, base: Option<u64>) {
        if self.base != base {
            self.base = base;
            for index in 0..self.queues.len() {
                self.sync_doorbell(index);
            }
        }
    }

    /// Called when a queue is enabled.
    pub(super) fn enable(&mut self, queue: QueueIndex) {
        let index = usize::from(queue.0);
        if let Some(doorbell) = self.queues.get_mut(index) {
            doorbell.wanted = true;
            self.sync_doorbell(index);
        }
    }

    fn sync_doorbell(&mut self, index: usize) {
        let doorbell = &mut self.queues[index];
        // Does not overflow: the BAR at `base` contains the doorbell.
        let address = self
            .base
            .map(|base| base.wrapping_add(layout::doorbell(index)));
        let wanted = address.filter(|_| doorbell.wanted);
        if wanted == doorbell.registered {
            return;
        }
        let outcome = doorbell.bring_to(wanted, &*self.doorbells);
        if let (Err(error), false) = (outcome, std::mem::replace(&mut self.faulted, true)) {
            log::error!("cannot place the doorbell of queue {index}: {error}");
        }
    }
}
