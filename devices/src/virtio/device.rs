// SPDX-License-Identifier: Apache-2.0
//! The interface between a transport and a device, so that either can be replaced.
//!
//! The transport calls [`VirtioDevice`] on vCPU threads with its own locks held: no method may
//! block or call [`DriverSignals`] itself. The device calls [`DriverSignals`] on its own thread.

use std::fmt;
use std::sync::Arc;

use crate::virtio::eventfd::QueueEvents;
use crate::virtio::queue::QueueLayout;

/// A device type (virtio 1.2 §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceType(pub u8);

impl DeviceType {
    /// Network card.
    pub const NET: Self = Self(1);
    /// Disk.
    pub const BLOCK: Self = Self(2);
    /// Entropy source.
    pub const RNG: Self = Self(4);
    /// Keyboard, mouse and the like.
    pub const INPUT: Self = Self(18);
    /// Socket.
    pub const VSOCK: Self = Self(19);
    /// File system.
    pub const FS: Self = Self(26);
}

/// The index of a queue within its device.
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
    /// The queue's index.
    pub index: QueueIndex,
    /// The queue's addresses and size.
    pub layout: QueueLayout,
    /// The eventfds by which driver and device notify each other.
    pub events: Arc<QueueEvents>,
}

/// What a device needs to start.
pub struct Activation {
    /// The negotiated features.
    pub features: u64,
    /// The queues that the driver enabled.
    pub queues: Vec<ActiveQueue>,
    /// Signals to the driver.
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

/// Signals of a device to its driver besides the queues.
pub trait DriverSignals: Send + Sync {
    /// Sends the interrupt of a queue once, as if buffers had been used.
    fn used_buffers(&self, queue: QueueIndex);
    /// Reports a change of the device's configuration space.
    fn config_changed(&self);
    /// Sets DEVICE_NEEDS_RESET: the device stops until the driver has reset it.
    fn needs_reset(&self);
    /// Retries to route interrupts that the kernel refused to route. Call it about once a second
    /// while the queues run.
    fn retry(&self) {}
}

/// A virtio device, independent of its transport and its implementation.
pub trait VirtioDevice: Send + Sync + fmt::Debug {
    /// Its type.
    fn device_type(&self) -> DeviceType;
    /// The features it offers; constant as long as a driver may have read them.
    fn features(&self) -> u64;
    /// The largest size of each of its queues; powers of two. Never changes.
    fn queue_max_sizes(&self) -> &[u16];
    /// The length of its configuration space in bytes. Never changes.
    fn config_len_bytes(&self) -> usize;
    /// Reads its configuration space; bytes beyond the end read as zero.
    fn read_config(&self, offset: usize, data: &mut [u8]);
    /// Writes its configuration space. Does nothing for most types: only the backend decides their
    /// configuration.
    fn write_config(&self, _offset: usize, _data: &[u8]) {}
    /// Starts using the queues. Called once between resets.
    fn activate(&self, activation: Activation);
    /// Handles a notification that did not come through the queue's eventfd. Only after `activate`.
    fn notify(&self, queue: QueueIndex);
    /// Starts a reset. Called only after `activate`, and not again before `reset_done`.
    fn begin_reset(&self);
    /// Whether the reset is complete: no request is in progress, the device does not access guest
    /// memory any more, and sends no more signals.
    fn reset_done(&self) -> bool;
}
