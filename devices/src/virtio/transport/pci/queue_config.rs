// SPDX-License-Identifier: Apache-2.0
//! The fields of one queue in the common configuration structure (virtio 1.2 §4.1.4.3).

use serde::{Deserialize, Serialize};
use vm_memory::GuestAddress;

use crate::virtio::queue::QueueLayout;
use crate::virtio::transport::pci::common_config::NO_VECTOR;

/// The length of these fields in bytes: `queue_size` to `queue_device`.
pub(super) const LEN_BYTES: usize = 32;

/// What a driver has set of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct QueueState {
    size: u16,
    vector: u16,
    enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

/// One queue during setup.
#[derive(Debug)]
pub(super) struct QueueConfig {
    max_size: u16,
    size: u16,
    pub(super) vector: u16,
    enabled: Option<QueueLayout>,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl QueueConfig {
    /// The state after a reset.
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            vector: NO_VECTOR,
            enabled: None,
            descriptors: 0,
            driver: 0,
            device: 0,
        }
    }

    pub(super) fn save(&self) -> QueueState {
        QueueState {
            size: self.size,
            vector: self.vector,
            enabled: self.enabled.is_some(),
            descriptors: self.descriptors,
            driver: self.driver,
            device: self.device,
        }
    }

    /// A queue of this largest size in this state, if that is possible.
    pub(super) fn restored(max_size: u16, state: QueueState) -> Option<Self> {
        let mut queue = Self {
            vector: state.vector,
            descriptors: state.descriptors,
            driver: state.driver,
            device: state.device,
            ..Self::new(max_size)
        };
        queue.write_size(state.size);
        (queue.size == state.size && (!state.enabled || queue.enable())).then_some(queue)
    }

    /// The largest size it can have.
    pub(super) fn max_size(&self) -> u16 {
        self.max_size
    }

    /// The addresses and size, once the queue is enabled.
    pub(super) fn enabled(&self) -> Option<QueueLayout> {
        self.enabled
    }

    /// The fields as a driver reads them while queue `index` is selected.
    pub(super) fn image(&self, index: u16) -> [u8; LEN_BYTES] {
        let mut image = [0; LEN_BYTES];
        // Each queue has its own doorbell, in order.
        let (enable, notify_off) = (u16::from(self.enabled.is_some()), index);
        let words = [self.size, self.vector, enable, notify_off];
        for (chunk, word) in image.chunks_exact_mut(2).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let addresses = [self.descriptors, self.driver, self.device];
        for (chunk, address) in image[8..].chunks_exact_mut(8).zip(addresses) {
            chunk.copy_from_slice(&address.to_le_bytes());
        }
        image
    }

    /// A write to `queue_size` or one of the addresses, at `offset` into these fields.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        // "The driver MUST configure the other virtqueue fields before enabling the virtqueue"
        // (§4.1.4.3.2)
        if self.enabled.is_some() {
            return;
        }
        match (offset, data) {
            (0, &[a, b]) => self.write_size(u16::from_le_bytes([a, b])),
            // "64-bit fields are to be treated as two 32-bit fields" (§4.1.3)
            (8 | 16 | 24, &[a, b, c, d, e, f, g, h]) => {
                self.write_half(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_half(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            (_, &[a, b, c, d]) => self.write_half(offset, u32::from_le_bytes([a, b, c, d])),
            _ => {}
        }
    }

    fn write_size(&mut self, size: u16) {
        // "the device MUST present either a value of 0 or a power of 2 in queue_size" (§4.1.4.3.1)
        if size.is_power_of_two() && size <= self.max_size {
            self.size = size;
        }
    }

    fn write_half(&mut self, offset: u64, value: u32) {
        let field = match offset {
            8 | 12 => &mut self.descriptors,
            16 | 20 => &mut self.driver,
            24 | 28 => &mut self.device,
            _ => return,
        };
        // "the device MUST allow driver independent access to high and low 32-bit parts of the
        // field" (§4.1.3.1)
        let shift = if offset.is_multiple_of(8) { 0 } else { 32 };
        *field = *field & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift;
    }

    /// Handles a write of 1 to `queue_enable` (never 0: "The driver MUST NOT write a 0 to
    /// queue_enable", §4.1.4.3.2). Returns whether the queue became enabled; a queue with an
    /// invalid layout stays disabled.
    pub(super) fn enable(&mut self) -> bool {
        if self.enabled.is_some() {
            return false;
        }
        self.enabled = QueueLayout::new(
            self.size,
            GuestAddress(self.descriptors),
            GuestAddress(self.driver),
            GuestAddress(self.device),
        );
        self.enabled.is_some()
    }
}
