// SPDX-License-Identifier: Apache-2.0
//! A machine that insists on its contracts: whatever a guest does, the transport must not assign an
//! eventfd twice, leave a doorbell behind, or start a device that runs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use devices::bus::{Bus, Doorbells};
use devices::interrupt::{InterruptFabric, MsiMessage, MsiVectors, PINS};
use devices::pci::bar::Windows;
use devices::virtio::device::{Activation, DeviceType, QueueIndex, VirtioDevice};
use devices::virtio::eventfd;
use devices::virtio::transport::pci::function::{Host, VirtioPci};
use vmm_sys_util::eventfd::EventFd;

pub(crate) const QUEUE_SIZES: [u16; 2] = [256, 128];
/// Version 1, EVENT_IDX and two features of the device.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 29 | 0b101;
/// The window of 64-bit BARs.
pub(crate) const BARS: u64 = 1 << 40;
pub(crate) const BAR_LEN: u64 = 0x1_0000;

/// The host's side of doorbells and interrupts.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    sent: Mutex<Vec<MsiMessage>>,
    assigned: Mutex<BTreeMap<RawFd, (u16, MsiMessage)>>,
    doorbells: Mutex<BTreeMap<u64, RawFd>>,
}

impl Wires {
    /// What was sent since this was last asked.
    pub(crate) fn take_sent(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    /// A device's process signals a call eventfd: where it is assigned, KVM sends the message.
    pub(crate) fn call(&self, call: &EventFd) {
        match self.assigned.lock().unwrap().get(&call.as_raw_fd()) {
            Some((_, message)) => self.sent.lock().unwrap().push(*message),
            None => drop(call.write(1)),
        }
    }

    /// Where doorbells are.
    pub(crate) fn doorbells(&self) -> Vec<u64> {
        self.doorbells.lock().unwrap().keys().copied().collect()
    }
}

impl InterruptFabric for Wires {
    fn send(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message);
    }
    fn watch_level_pins(&self, _: &[Option<MsiMessage>; PINS]) {}
}

impl MsiVectors for Wires {
    fn assign(&self, vector: u16, message: MsiMessage, call: &EventFd) -> io::Result<()> {
        let key = call.as_raw_fd();
        let before = self.assigned.lock().unwrap().insert(key, (vector, message));
        assert_eq!(before, None, "an eventfd was assigned twice");
        if eventfd::is_readable(call) {
            self.send(message);
        }
        Ok(())
    }
    fn deassign(&self, vector: u16, call: &EventFd) -> io::Result<()> {
        let before = self.assigned.lock().unwrap().remove(&call.as_raw_fd());
        assert_eq!(before.map(|(v, _)| v), Some(vector), "was not assigned");
        Ok(())
    }
}

impl Doorbells for Wires {
    fn register(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        let mut doorbells = self.doorbells.lock().unwrap();
        let before = doorbells.insert(address, kick.as_raw_fd());
        assert_eq!(before, None, "a doorbell was registered twice");
        Ok(())
    }
    fn unregister(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        let before = self.doorbells.lock().unwrap().remove(&address);
        assert_eq!(before, Some(kick.as_raw_fd()), "was not registered");
        Ok(())
    }
}

/// A device with two queues and 8 bytes of configuration, which insists on the transport's promises.
#[derive(Debug, Default)]
pub(crate) struct Device {
    activation: Mutex<Option<Activation>>,
    resetting: AtomicBool,
    slow: AtomicBool,
}

impl Device {
    /// From now on a reset takes until [`Self::finish_reset`], or ends at once.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::SeqCst);
    }

    pub(crate) fn finish_reset(&self) {
        self.resetting.store(false, Ordering::SeqCst);
    }

    /// Does something as the device's process, if the device runs.
    pub(crate) fn active(&self, act: impl FnOnce(&Activation)) {
        if let Some(activation) = &*self.activation.lock().unwrap() {
            act(activation);
        }
    }
}

impl VirtioDevice for Device {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }
    fn features(&self) -> u64 {
        // 30 and 34 are what the transport has to hide.
        FEATURES | 1 << 30 | 1 << 34
    }
    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }
    fn config_len_bytes(&self) -> usize {
        8
    }
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = u8::try_from(at % 251).unwrap();
        }
    }
    fn activate(&self, activation: Activation) {
        assert_eq!(activation.features & !FEATURES, 0, "features never offered");
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
    }
    fn begin_reset(&self) {
        let before = self.activation.lock().unwrap().take();
        assert!(before.is_some(), "reset without activation");
        let slow = self.slow.load(Ordering::SeqCst);
        let was = self.resetting.swap(slow, Ordering::SeqCst);
        assert!(!was, "reset twice");
    }
    fn reset_done(&self) -> bool {
        !self.resetting.load(Ordering::SeqCst)
    }
}

/// A device as a function on the bus.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) device: Arc<Device>,
    pub(crate) wires: Arc<Wires>,
    pub(crate) function: Arc<VirtioPci>,
}

impl Card {
    pub(crate) fn new(memory: &Arc<Bus>, windows: &mut Windows) -> Self {
        let (wires, device) = (Arc::<Wires>::default(), Arc::<Device>::default());
        let host = Host {
            memory_space: Arc::clone(memory),
            doorbells: Arc::clone(&wires) as _,
            interrupts: Arc::clone(&wires) as _,
            vectors: Arc::clone(&wires) as _,
        };
        let function = VirtioPci::new(Arc::clone(&device) as _, host, windows).unwrap();
        Self {
            device,
            wires,
            function: Arc::new(function),
        }
    }
}

pub(crate) fn windows() -> Windows {
    Windows::new((0xc000_0000, 0x10_0000), (BARS, 1 << 30)).unwrap()
}
