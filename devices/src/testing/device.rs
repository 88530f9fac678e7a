// SPDX-License-Identifier: Apache-2.0
//! A device without a process behind it, which insists on what the transport promises to devices.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::virtio::device::{Activation, DeviceType, QueueIndex, VirtioDevice};
use crate::virtio::features::{RING_EVENT_IDX, VERSION_1};

/// The features a driver is to see.
pub const OFFERED: u64 = VERSION_1 | RING_EVENT_IDX | 0b101;
/// The sizes of its queues.
pub const QUEUE_SIZES: [u16; 2] = [256, 128];

/// A device with two queues and 8 bytes of configuration.
#[derive(Debug, Default)]
pub struct FakeDevice {
    /// Its configuration space.
    pub config: AtomicU64,
    /// What it runs with, while it does.
    pub activation: Mutex<Option<Activation>>,
    /// The queues it was notified of by the slow way.
    pub notified: Mutex<Vec<QueueIndex>>,
    /// What was written to its configuration space, and where; it does not change for that.
    pub written: Mutex<Vec<(usize, Vec<u8>)>>,
    /// From now on a reset takes until [`Self::finish_reset`].
    pub drains_slowly: AtomicBool,
    resetting: AtomicBool,
}

impl FakeDevice {
    /// Ends a reset.
    pub fn finish_reset(&self) {
        self.resetting.store(false, Ordering::SeqCst);
    }

    /// Does something as the device's process, if the device runs.
    pub fn active<T>(&self, act: impl FnOnce(&Activation) -> T) -> Option<T> {
        self.activation.lock().unwrap().as_ref().map(act)
    }
}

impl VirtioDevice for FakeDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }
    fn features(&self) -> u64 {
        // 30 and 34 are what the transport has to hide.
        OFFERED | 1 << 30 | 1 << 34
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }
    fn config_len_bytes(&self) -> usize {
        8
    }
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let config = self.config.load(Ordering::SeqCst).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(config.iter().skip(offset)) {
            *byte = *value;
        }
    }
    fn write_config(&self, offset: usize, data: &[u8]) {
        self.written.lock().unwrap().push((offset, data.to_vec()));
    }
    fn activate(&self, activation: Activation) {
        assert_eq!(activation.features & !OFFERED, 0, "features never offered");
        for queue in &activation.queues {
            let most = QUEUE_SIZES[usize::from(queue.index.0)];
            assert!(queue.layout.size() <= most && queue.layout.size().is_power_of_two());
        }
        let before = self.activation.lock().unwrap().replace(activation);
        assert!(before.is_none(), "activated twice");
    }
    fn notify(&self, queue: QueueIndex) {
        assert!(usize::from(queue.0) < QUEUE_SIZES.len());
        assert!(self.activation.lock().unwrap().is_some());
        self.notified.lock().unwrap().push(queue);
    }
    fn begin_reset(&self) {
        let before = self.activation.lock().unwrap().take();
        assert!(before.is_some(), "reset without activation");
        let slowly = self.drains_slowly.load(Ordering::SeqCst);
        let was = self.resetting.swap(slowly, Ordering::SeqCst);
        assert!(!was, "reset twice");
    }
    fn reset_done(&self) -> bool {
        !self.resetting.load(Ordering::SeqCst)
    }
}
