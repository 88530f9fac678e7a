// SPDX-License-Identifier: Apache-2.0
//! The common configuration structure (virtio 1.2 §4.1.4.3) and the device status (§2.1): the state
//! machine that a driver controls. Pure: a write returns its consequence for the rest of the device
//! as an [`Effect`].

use serde::{Deserialize, Serialize};

use crate::state::{StateError, check_count};
use crate::virtio::device::QueueIndex;
use crate::virtio::features;
use crate::virtio::queue::QueueLayout;
use crate::virtio::transport::pci::queue_config::{self, QueueConfig, QueueState};

/// The length of the structure in bytes: up to `queue_device`, because the features that define the
/// later fields are never offered.
pub(super) const LEN_BYTES: usize = QUEUE + queue_config::LEN_BYTES;
/// The offset of the selected queue's fields, after `queue_select`.
const QUEUE: usize = 24;
/// "Vector value used to disable MSI for queue" (§4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// The bits of the device status (§2.1).
pub(super) mod status {
    pub(in super::super) const ACKNOWLEDGE: u8 = 1;
    pub(in super::super) const DRIVER: u8 = 2;
    pub(in super::super) const DRIVER_OK: u8 = 4;
    pub(in super::super) const FEATURES_OK: u8 = 8;
    pub(in super::super) const NEEDS_RESET: u8 = 0x40;
    pub(in super::super) const FAILED: u8 = 0x80;
}

/// What the caller must do because of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Reset the device, then call [`CommonConfig::finish_reset`].
    Reset,
    /// DRIVER_OK: call [`CommonConfig::take_start`].
    Start,
    /// A queue was enabled.
    Enabled(QueueIndex),
    /// The configuration's vector changed.
    ConfigVector,
    /// A queue's vector changed.
    QueueVector(QueueIndex),
}

/// What a driver has set, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CommonState {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    generation: u8,
    config_changed: bool,
    queue_select: u16,
    queues: Vec<QueueState>,
    resetting: bool,
}

#[derive(Debug)]
pub(super) struct CommonConfig {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    vectors: u16,
    config_vector: u16,
    status: u8,
    generation: u8,
    config_changed: bool,
    queue_select: u16,
    queues: Vec<QueueConfig>,
    started: bool,
    resetting: bool,
}

impl CommonConfig {
    /// The state after a reset.
    pub(super) fn new(queue_max_sizes: &[u16], vectors: u16) -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            vectors,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            config_changed: false,
            queue_select: 0,
            queues: queue_max_sizes
                .iter()
                .copied()
                .map(QueueConfig::new)
                .collect(),
            started: false,
            resetting: false,
        }
    }

    pub(super) fn save(&self) -> CommonState {
        CommonState {
            device_feature_select: self.device_feature_select,
            driver_feature_select: self.driver_feature_select,
            driver_features: self.driver_features,
            config_vector: self.config_vector,
            status: self.status,
            generation: self.generation,
            config_changed: self.config_changed,
            queue_select: self.queue_select,
            queues: self.queues.iter().map(QueueConfig::save).collect(),
            resetting: self.resetting,
        }
    }

    /// The structure in this state, of a device that offers `offered`. The device is not started: a
    /// driver that was ready is ready for [`Self::take_start`].
    pub(super) fn restored(&self, state: &CommonState, offered: u64) -> Result<Self, StateError> {
        check_count("queues", state.queues.len(), self.queues.len())?;
        let accepted = state.driver_features;
        if state.status & status::FEATURES_OK != 0 && !features::acceptable(offered, accepted) {
            return Err(StateError::Features(accepted));
        }
        let sizes = self.queues.iter().map(QueueConfig::max_size);
        let queues = sizes.zip(&state.queues).enumerate();
        let queues = queues.map(|(index, (max_size, queue))| {
            let mut queue =
                QueueConfig::restored(max_size, *queue).ok_or(StateError::Queue(index))?;
            queue.vector = self.valid_vector(queue.vector);
            Ok(queue)
        });
        // A driver is ready only with accepted features.
        let unready = match state.status & status::FEATURES_OK {
            0 => status::DRIVER_OK,
            _ => 0,
        };
        Ok(Self {
            device_feature_select: state.device_feature_select,
            driver_feature_select: state.driver_feature_select,
            driver_features: accepted,
            vectors: self.vectors,
            config_vector: self.valid_vector(state.config_vector),
            status: state.status & !unready,
            generation: state.generation,
            config_changed: state.config_changed,
            queue_select: state.queue_select,
            queues: queues.collect::<Result<_, _>>()?,
            started: false,
            resetting: state.resetting,
        })
    }

    /// The queues that the driver has enabled.
    pub(super) fn enabled(&self) -> impl Iterator<Item = QueueIndex> {
        let queues = (0..).zip(&self.queues);
        queues.filter_map(|(i, queue)| queue.enabled().map(|_| QueueIndex(i)))
    }

    /// The structure as a driver reads it from a device that offers `offered`.
    pub(super) fn image(&self, offered: u64) -> [u8; LEN_BYTES] {
        let mut image = [0; LEN_BYTES];
        let mut put = |offset: usize, bytes: &[u8]| {
            image[offset..offset + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &self.device_feature_select.to_le_bytes());
        put(
            4,
            &window(offered, self.device_feature_select).to_le_bytes(),
        );
        put(8, &self.driver_feature_select.to_le_bytes());
        put(
            12,
            &window(self.driver_features, self.driver_feature_select).to_le_bytes(),
        );
        put(16, &self.config_vector.to_le_bytes());
        put(
            18,
            &u16::try_from(self.queues.len()).unwrap_or(0).to_le_bytes(),
        );
        put(20, &[self.status, self.generation]);
        put(22, &self.queue_select.to_le_bytes());
        // "The device MUST present a 0 in queue_size if the virtqueue corresponding to the current
        // queue_select is unavailable" (§4.1.4.3.1)
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(QUEUE, &queue.image(self.queue_select));
        } else {
            put(26, &NO_VECTOR.to_le_bytes());
        }
        image
    }

    /// A driver's write. Ignored unless it is exactly one field that the driver may write now.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], offered: u64) -> Effect {
        // "After writing 0 to device_status, the driver MUST wait for a read of device_status to
        // return 0 before reinitializing the device" (§4.1.4.3.2)
        if self.resetting {
            return Effect::None;
        }
        match (offset, data) {
            (0, &[a, b, c, d]) => self.device_feature_select = u32::from_le_bytes([a, b, c, d]),
            (8, &[a, b, c, d]) => self.driver_feature_select = u32::from_le_bytes([a, b, c, d]),
            (12, &[a, b, c, d]) => self.write_features(u32::from_le_bytes([a, b, c, d])),
            (16, &[a, b]) => return self.write_config_vector(u16::from_le_bytes([a, b])),
            (20, &[value]) => return self.write_status(value, offered),
            (22, &[a, b]) => self.queue_select = u16::from_le_bytes([a, b]),
            (26, &[a, b]) => return self.write_queue_vector(u16::from_le_bytes([a, b])),
            (28, &[1, 0]) => return self.enable_queue(),
            (24 | 32..56, _) => self.write_queue(offset - QUEUE as u64, data),
            _ => {}
        }
        Effect::None
    }

    fn write_features(&mut self, value: u32) {
        // §3.1.1: after FEATURES_OK "the driver MUST NOT accept new feature bits"
        if self.status & status::FEATURES_OK != 0 {
            return;
        }
        let shift = match self.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        // Keep bits that were not offered, so that FEATURES_OK is refused because of them.
        let kept = self.driver_features & !(u64::from(u32::MAX) << shift);
        self.driver_features = kept | u64::from(value) << shift;
    }

    /// "Devices MUST report mapping failures by returning the NO_VECTOR value" (§4.1.5.1.2.1)
    fn valid_vector(&self, vector: u16) -> u16 {
        if vector < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn write_config_vector(&mut self, vector: u16) -> Effect {
        self.config_vector = self.valid_vector(vector);
        Effect::ConfigVector
    }

    fn write_queue_vector(&mut self, vector: u16) -> Effect {
        let (index, vector) = (self.queue_select, self.valid_vector(vector));
        match self.queues.get_mut(usize::from(index)) {
            Some(queue) => {
                queue.vector = vector;
                Effect::QueueVector(QueueIndex(index))
            }
            None => Effect::None,
        }
    }

    /// Whether the driver may set up queues: between FEATURES_OK and DRIVER_OK (§3.1.1).
    fn is_setup(&self) -> bool {
        self.status & (status::FEATURES_OK | status::DRIVER_OK) == status::FEATURES_OK
    }

    /// A write to the setup fields of the selected queue.
    fn write_queue(&mut self, offset: u64, data: &[u8]) {
        let setup = self.is_setup();
        if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select))
            && setup
        {
            queue.write(offset, data);
        }
    }

    fn enable_queue(&mut self) -> Effect {
        let (index, setup) = (self.queue_select, self.is_setup());
        match self.queues.get_mut(usize::from(index)) {
            Some(queue) if setup => match queue.enable() {
                true => Effect::Enabled(QueueIndex(index)),
                false => Effect::None,
            },
            _ => Effect::None,
        }
    }

    fn write_status(&mut self, value: u8, offered: u64) -> Effect {
        // "The device MUST reset when 0 is written to device_status" (§4.1.4.3.1)
        if value == 0 {
            self.resetting = true;
            return Effect::Reset;
        }
        // "The driver MUST NOT clear a device status bit" (§2.1.1): only new bits count.
        let new = value & !self.status;
        let before = self.status;
        self.status |= new & (status::ACKNOWLEDGE | status::DRIVER | status::FAILED);
        // The driver reads the status again to see whether the device accepted its features
        // (§3.1.1).
        if new & status::FEATURES_OK != 0 && features::acceptable(offered, self.driver_features) {
            self.status |= status::FEATURES_OK;
        }
        // "The device MUST NOT consume buffers or send any used buffer notifications to the driver
        // before DRIVER_OK" (§2.1.2); without FEATURES_OK no queue is set up.
        if new & status::DRIVER_OK != 0 && before & status::FEATURES_OK != 0 {
            self.status |= status::DRIVER_OK;
            return Effect::Start;
        }
        Effect::None
    }

    /// The features and queues to start the device with, if the driver is ready and the device not
    /// started.
    pub(super) fn take_start(&mut self) -> Option<(u64, Vec<(QueueIndex, QueueLayout)>)> {
        if self.status & status::DRIVER_OK == 0 || self.started || self.resetting {
            return None;
        }
        self.started = true;
        let enabled = (0..).zip(&self.queues);
        let queues = enabled.filter_map(|(i, queue)| Some((QueueIndex(i), queue.enabled()?)));
        Some((self.driver_features, queues.collect()))
    }

    /// Whether the device has started and was not reset since.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// Whether a reset is in progress.
    pub(super) fn is_resetting(&self) -> bool {
        self.resetting
    }

    /// The device has been reset: shows that to the driver.
    pub(super) fn finish_reset(&mut self) {
        // "present a 0 in device_status once that is done", "The device MUST present a 0 in
        // queue_enable on reset" (§4.1.4.3.1); "The device MUST have all queue and configuration
        // change events are unmapped upon reset" (§4.1.5.1.2.1)
        let sizes: Vec<u16> = self.queues.iter().map(QueueConfig::max_size).collect();
        *self = Self {
            generation: self.generation,
            config_changed: self.config_changed,
            ..Self::new(&sizes, self.vectors)
        };
    }

    /// The vector of configuration changes.
    pub(super) fn config_vector(&self) -> Option<u16> {
        (self.config_vector != NO_VECTOR).then_some(self.config_vector)
    }

    /// The vector of a queue.
    pub(super) fn queue_vector(&self, index: QueueIndex) -> Option<u16> {
        let queue = self.queues.get(usize::from(index.0))?;
        (queue.vector != NO_VECTOR).then_some(queue.vector)
    }

    /// Sets DEVICE_NEEDS_RESET; returns whether the driver must be notified.
    pub(super) fn needs_reset(&mut self) -> bool {
        let was = self.status & status::NEEDS_RESET != 0;
        self.status |= status::NEEDS_RESET;
        // "If DRIVER_OK is set, after it sets DEVICE_NEEDS_RESET, the device MUST send a device
        // configuration change notification to the driver" (§2.1.2)
        !was && self.status & status::DRIVER_OK != 0
    }

    /// Notes a change of the device's configuration space.
    pub(super) fn config_changed(&mut self) {
        self.config_changed = true;
    }

    /// Notes a read of the device's configuration space by the driver.
    pub(super) fn config_read(&mut self) {
        // "The device MUST present a changed config_generation after the driver has read a
        // device-specific configuration value which has changed since any part of the
        // device-specific configuration was last read" (§4.1.4.3.1)
        if std::mem::take(&mut self.config_changed) {
            self.generation = self.generation.wrapping_add(1);
        }
    }
}

/// "starting at bit device_feature_select ∗ 32 for any device_feature_select written by the driver"
/// (§4.1.4.3.1)
fn window(features: u64, select: u32) -> u32 {
    match select {
        0 => (features & 0xffff_ffff) as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
