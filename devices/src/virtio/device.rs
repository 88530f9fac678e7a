// SPDX-License-Identifier: Apache-2.0
//! What lies between a transport and a device, so that either can be another one.
//!
//! The transport calls [`VirtioDevice`] on vCPU threads with its own locks held: no method may wait
//! for anything, and none may call [`DriverSignals`] itself. The device calls [`DriverSignals`] on a
//! thread of its own.

use std::fmt;
use std::sync::Arc;

use crate::virtio::eventfd::QueueEvents;
use crate::virtio::queue::QueueLayout;

/// What kind of device one is (virtio 1.2 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceType(pub u8);

impl DeviceType {
    /// Network card.
    pub const NET: Self = Self(1);
    /// Disk.
    pub const BLOCK: Self = Self(2);
    /// Entropy source.
    pub const RNG: Self = Self(4);
    /// Socket.
    pub const VSOCK: Self = Self(19);
    /// File system.
    pub const FS: Self = Self(26);
}

/// The number of a queue within its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueIndex(pub u16);

impl fmt::Display for QueueIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A queue that the driver has enabled.
#[derive(Debug, Clone)]
pub struct ActiveQueue {
    /// Which one.
    pub index: QueueIndex,
    /// Where it is.
    pub layout: QueueLayout,
    /// How driver and device notify each other.
    pub events: Arc<QueueEvents>,
}

/// What a device needs to begin.
pub struct Activation {
    /// The features that driver and device agreed on.
    pub features: u64,
    /// The queues that the driver enabled.
    pub queues: Vec<ActiveQueue>,
    /// The way to the driver.
    pub signals: Arc<dyn DriverSignals>,
}

impl fmt::Debug for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activation")
            .field("features", &format_args!("{:#x}", self.features))
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// What a device can tell its driver besides what goes through the queues.
pub trait DriverSignals: Send + Sync {
    /// Sends the interrupt of a queue once, as if buffers had been used.
    fn used_buffers(&self, queue: QueueIndex);
    /// Says that what the device's configuration space reads has changed.
    fn config_changed(&self);
    /// Sets DEVICE_NEEDS_RESET: the device does nothing more until the driver has reset it.
    fn needs_reset(&self);
    /// Tries again to route interrupts that the host refused to route. To be called every second or
    /// so while the queues run.
    fn retry(&self) {}
}

/// A device, whatever it is and wherever it lives.
pub trait VirtioDevice: Send + Sync + fmt::Debug {
    /// What kind it is.
    fn device_type(&self) -> DeviceType;
    /// The features it offers; the same as long as a driver may have read them.
    fn features(&self) -> u64;
    /// The largest size of each of its queues; powers of two. Never changes.
    fn queue_max_sizes(&self) -> &[u16];
    /// The length of its configuration space in bytes. Never changes.
    fn config_len_bytes(&self) -> usize;
    /// Reads its configuration space; bytes beyond the end read as zero.
    fn read_config(&self, offset: usize, data: &mut [u8]);
    /// Begins to use the queues. Called once between resets.
    fn activate(&self, activation: Activation);
    /// A notification that did not come through the queue's eventfd. Only after `activate`.
    fn notify(&self, queue: QueueIndex);
    /// Begins a reset. Called only after `activate`, and not again before `reset_done`.
    fn begin_reset(&self);
    /// Whether the reset is over: no request is in progress, guest memory is not touched any more
    /// and no signal will come.
    fn reset_done(&self) -> bool;
}
