// SPDX-License-Identifier: Apache-2.0
//! A machine that only remembers what it was told, a device that only remembers what it was asked,
//! and a driver's view of the two.

#![allow(clippy::cast_possible_truncation)] // is meant wherever it happens here

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::bus::{Bus, Doorbells};
use crate::interrupt::{InterruptFabric, MsiMessage, MsiVectors, PINS};
use crate::pci::bar::Windows;
use crate::pci::root::PciFunction;
use crate::virtio::device::{Activation, DeviceType, QueueIndex, VirtioDevice};
use crate::virtio::eventfd;
use crate::virtio::features::{RING_EVENT_IDX, VERSION_1};
use crate::virtio::transport::pci::common_config::status;
use crate::virtio::transport::pci::function::{Host, VirtioPci};
use crate::virtio::transport::pci::layout;

pub(super) const OFFERED: u64 = VERSION_1 | RING_EVENT_IDX | 0b101;
pub(super) const QUEUE_SIZES: [u16; 2] = [256, 128];

/// Behaves as KVM does, as far as can be seen from here.
#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) sent: Mutex<Vec<MsiMessage>>,
    assigned: Mutex<BTreeMap<i32, (u16, MsiMessage)>>,
    pub(super) doorbells: Mutex<BTreeMap<u64, i32>>,
}

impl Machine {
    pub(super) fn take_sent(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }

    /// A device's process signals a call eventfd.
    pub(super) fn call(&self, call: &EventFd) {
        match self.assigned.lock().unwrap().get(&call.as_raw_fd()) {
            Some((_, message)) => self.sent.lock().unwrap().push(*message),
            None => call.write(1).unwrap(),
        }
    }

    pub(super) fn assigned(&self) -> Vec<(u16, MsiMessage)> {
        self.assigned.lock().unwrap().values().copied().collect()
    }
}

impl InterruptFabric for Machine {
    fn send(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message);
    }
    fn watch_level_pins(&self, _: &[Option<MsiMessage>; PINS]) {}
}

impl MsiVectors for Machine {
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

impl Doorbells for Machine {
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

/// A device with two queues and 8 bytes of configuration.
#[derive(Debug, Default)]
pub(super) struct FakeDevice {
    pub(super) config: AtomicU64,
    pub(super) activation: Mutex<Option<Activation>>,
    pub(super) notified: Mutex<Vec<QueueIndex>>,
    pub(super) resetting: AtomicBool,
    pub(super) drains_slowly: AtomicBool,
}

impl FakeDevice {
    pub(super) fn finish_reset(&self) {
        self.resetting.store(false, Ordering::SeqCst);
    }

    pub(super) fn active<T>(&self, look: impl FnOnce(&Activation) -> T) -> T {
        look(self.activation.lock().unwrap().as_ref().unwrap())
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
    fn activate(&self, activation: Activation) {
        let before = self.activation.lock().unwrap().replace(activation);
        assert!(before.is_none(), "activated twice");
    }
    fn notify(&self, queue: QueueIndex) {
        assert!(self.activation.lock().unwrap().is_some());
        self.notified.lock().unwrap().push(queue);
    }
    fn begin_reset(&self) {
        assert!(!self.resetting.load(Ordering::SeqCst), "reset twice");
        let before = self.activation.lock().unwrap().take();
        assert!(before.is_some(), "reset without activation");
        let slowly = self.drains_slowly.load(Ordering::SeqCst);
        self.resetting.store(slowly, Ordering::SeqCst);
    }
    fn reset_done(&self) -> bool {
        !self.resetting.load(Ordering::SeqCst)
    }
}

/// A function, and what a driver does to it.
pub(super) struct Guest {
    pub(super) machine: Arc<Machine>,
    pub(super) device: Arc<FakeDevice>,
    pub(super) function: Arc<VirtioPci>,
    pub(super) memory: Arc<Bus>,
    pub(super) base: u64,
}

pub(super) const BASE: u64 = 1 << 40;
pub(super) const COMMAND: usize = 4;
pub(super) const BAR0: usize = 0x10;

impl Guest {
    /// As after power-on.
    pub(super) fn new() -> Self {
        let (machine, device) = (Arc::<Machine>::default(), Arc::<FakeDevice>::default());
        let memory = Arc::<Bus>::default();
        let host = Host {
            memory_space: Arc::clone(&memory),
            doorbells: Arc::clone(&machine) as _,
            interrupts: Arc::clone(&machine) as _,
            vectors: Arc::clone(&machine) as _,
        };
        let mut windows = Windows::new((0xc000_0000, 0x10_0000), (BASE, 1 << 30)).unwrap();
        let function = VirtioPci::new(Arc::clone(&device) as _, host, &mut windows).unwrap();
        Self {
            machine,
            device,
            function: Arc::new(function),
            memory,
            base: BASE,
        }
    }

    /// With memory space, bus mastering and MSI-X on, vector i unmasked with data 0x40 + i.
    pub(super) fn enabled() -> Self {
        let guest = Self::new();
        guest.config_write(COMMAND, &[6, 0]);
        for vector in 0..3_u32 {
            guest.program(vector, 0x40 + vector);
            guest.mask(vector, false);
        }
        guest.config_write(guest.msix() + 2, &[0, 0x80]);
        guest
    }

    /// As far as DRIVER_OK with queue 0 on vector 1, queue 1 on vector 2, config on vector 0.
    pub(super) fn running() -> Self {
        let guest = Self::enabled();
        guest.negotiate(OFFERED);
        guest.write16(16, 0);
        guest.set_up_queue(0, 1);
        guest.set_up_queue(1, 2);
        guest.write8(20, 0xf);
        guest
    }

    pub(super) fn negotiate(&self, features: u64) {
        self.write8(20, status::ACKNOWLEDGE);
        self.write8(20, status::ACKNOWLEDGE | status::DRIVER);
        for select in [0_u32, 1] {
            self.write32(8, select);
            self.write32(12, (features >> (32 * select)) as u32);
        }
        self.write8(
            20,
            status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
        );
    }

    pub(super) fn set_up_queue(&self, index: u16, vector: u16) {
        self.write16(22, index);
        self.write16(24, 64);
        self.write16(26, vector);
        let at = 0x10_0000 * (u32::from(index) + 1);
        for (field, address) in [(32, at), (40, at + 0x1000), (48, at + 0x2000)] {
            self.write32(field, address);
            self.write32(field + 4, 0);
        }
        self.write16(28, 1);
    }

    pub(super) fn config_read(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.function.config_read(offset, &mut data);
        data
    }
    pub(super) fn config_write(&self, offset: usize, data: &[u8]) {
        self.function.config_write(offset, data);
    }

    /// The capabilities: offset and id of each.
    pub(super) fn capabilities(&self) -> Vec<(usize, u8)> {
        let mut found = Vec::new();
        let mut at = usize::from(self.config_read(0x34, 1)[0]);
        while at != 0 {
            found.push((at, self.config_read(at, 1)[0]));
            at = usize::from(self.config_read(at + 1, 1)[0]);
        }
        found
    }
    pub(super) fn msix(&self) -> usize {
        self.capabilities()
            .iter()
            .find(|(_, id)| *id == 0x11)
            .unwrap()
            .0
    }
    /// Body of the vendor capability of this `cfg_type`: offset in configuration space.
    pub(super) fn vendor(&self, cfg_type: u8) -> usize {
        let of_type =
            |&&(at, id): &&(usize, u8)| id == 9 && self.config_read(at + 3, 1)[0] == cfg_type;
        self.capabilities().iter().find(of_type).unwrap().0
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        self.memory.read(self.base + offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }
    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        self.memory.write(self.base + offset, data);
    }
    pub(super) fn write8(&self, offset: u64, value: u8) {
        self.write(offset, &[value]);
    }
    pub(super) fn write16(&self, offset: u64, value: u16) {
        self.write(offset, &value.to_le_bytes());
    }
    pub(super) fn write32(&self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }
    pub(super) fn status(&self) -> u8 {
        self.read(20, 1) as u8
    }

    pub(super) fn program(&self, vector: u32, data: u32) {
        let entry = layout::MSIX_TABLE + 16 * u64::from(vector);
        self.write32(entry, 0xfee0_0000);
        self.write32(entry + 4, 0);
        self.write32(entry + 8, data);
    }
    pub(super) fn mask(&self, vector: u32, masked: bool) {
        let entry = layout::MSIX_TABLE + 16 * u64::from(vector);
        self.write32(entry + 12, u32::from(masked));
    }
    pub(super) fn pending(&self) -> u64 {
        self.read(layout::MSIX_PBA, 8)
    }
    /// The device's process says that it used buffers of a queue.
    pub(super) fn call(&self, queue: usize) {
        let events = self.device.active(|a| Arc::clone(&a.queues[queue].events));
        self.machine.call(&events.call);
    }
}

pub(super) fn message(data: u32) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_0000,
        data,
    }
}

/// Pseudo-random numbers (xorshift64*), the same in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
