// SPDX-License-Identifier: Apache-2.0
//! A machine without a processor: memory, a bus with one device, and a driver for disks. What KVM
//! does with eventfds is done here by hand.

use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devices::testing::{BASE, COMMAND, Guest};
use devices::virtio::features::VERSION_1;
use devices::virtio::vhost_user::device::VhostUserDevice;
use devices::virtio::vhost_user::events::{DeviceEvent, DeviceEvents};
use devices::virtio::vhost_user::spec::DeviceSpec;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

const RAM_LEN: u64 = 4 << 20;
const QUEUE_SIZE: u16 = 8;

struct Reporter(Mutex<Sender<DeviceEvent>>);

impl DeviceEvents for Reporter {
    fn report(&self, event: DeviceEvent) {
        let _ = self.0.lock().unwrap().send(event);
    }
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) guest: Guest<VhostUserDevice>,
    memory: GuestMemoryMmap<()>,
    reports: Receiver<DeviceEvent>,
    available: [u16; 2],
}

impl Machine {
    pub(crate) fn new(spec: DeviceSpec) -> Self {
        let ram = File::from(memfd_create(c"ram", MFdFlags::MFD_CLOEXEC).unwrap());
        ram.set_len(RAM_LEN).unwrap();
        let range = (
            GuestAddress(0),
            RAM_LEN as usize,
            Some(FileOffset::new(ram, 0)),
        );
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
        let (sender, reports) = channel();
        let reporter = Arc::new(Reporter(Mutex::new(sender)));
        let (device, worker) = VhostUserDevice::new(spec, memory.clone(), None, reporter).unwrap();
        std::thread::spawn(move || worker.run());
        let guest = Guest::new(Arc::new(device));
        // Its registers can be read before there is a driver.
        guest.config_write(COMMAND, &[6, 0]);
        Self {
            guest,
            memory,
            reports,
            available: [0; 2],
        }
    }

    pub(crate) fn report(&self) -> DeviceEvent {
        self.reports.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    /// As a driver does: features, vectors, queues, go.
    pub(crate) fn start_driver(&mut self) {
        for queue in 0..2 {
            let base = GuestAddress(Self::base(queue));
            self.memory.write_slice(&[0; 0x3000], base).unwrap();
        }
        self.available = [0; 2];
        self.guest.enable();
        // Version 1 and nothing else.
        self.guest.start(VERSION_1, QUEUE_SIZE);
        assert_eq!(self.guest.status(), 0xf);
    }

    pub(crate) fn reset_driver(&self) {
        self.guest.write8(20, 0);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.guest.status() != 0 {
            assert!(Instant::now() < deadline, "the reset does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn base(queue: u16) -> u64 {
        Guest::<VhostUserDevice>::ring(queue)
    }

    /// Asks for a sector and rings the doorbell.
    pub(crate) fn submit(&mut self, queue: u16, sector: u64) {
        let base = Self::base(queue);
        let (header, data) = (base + 0x8000, base + 0x9000);
        let mut request = [0; 16];
        request[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory
            .write_slice(&request, GuestAddress(header))
            .unwrap();
        self.memory
            .write_slice(&[0xee; 513], GuestAddress(data))
            .unwrap();
        let parts = [(header, 16, 1, 1), (data, 512, 3, 2), (data + 512, 1, 2, 0)];
        for (i, (address, len, flags, next)) in parts.into_iter().enumerate() {
            let mut descriptor = Vec::new();
            descriptor.extend(u64::to_le_bytes(address));
            descriptor.extend(u32::to_le_bytes(len));
            descriptor.extend(u16::to_le_bytes(flags));
            descriptor.extend(u16::to_le_bytes(next));
            let at = GuestAddress(base + 16 * i as u64);
            self.memory.write_slice(&descriptor, at).unwrap();
        }
        let available = &mut self.available[usize::from(queue)];
        let slot = base + 0x1004 + 2 * u64::from(*available % QUEUE_SIZE);
        self.memory.write_obj(0_u16, GuestAddress(slot)).unwrap();
        *available = available.wrapping_add(1);
        let index = GuestAddress(base + 0x1002);
        self.memory
            .store(*available, index, Ordering::SeqCst)
            .unwrap();
        let doorbell = BASE + 0x3000 + 4 * u64::from(queue);
        assert!(self.guest.wires.ring(doorbell));
    }

    /// Waits for the interrupt and takes what was read.
    pub(crate) fn complete(&self, queue: u16) -> [u8; 512] {
        let (base, deadline) = (Self::base(queue), Instant::now() + Duration::from_secs(10));
        let used = || {
            self.memory
                .load::<u16>(GuestAddress(base + 0x2002), Ordering::SeqCst)
        };
        while used().unwrap() != self.available[usize::from(queue)] {
            assert!(Instant::now() < deadline, "the request is not completed");
            std::thread::sleep(Duration::from_micros(100));
        }
        while !self.guest.wires.was_called(queue + 1) {
            assert!(Instant::now() < deadline, "there is no interrupt");
            std::thread::sleep(Duration::from_micros(100));
        }
        let mut data = [0; 513];
        self.memory
            .read_slice(&mut data, GuestAddress(base + 0x9000))
            .unwrap();
        assert_eq!(data[512], 0, "status");
        data[..512].try_into().unwrap()
    }

    pub(crate) fn read_sector(&mut self, queue: u16, sector: u64) -> [u8; 512] {
        self.submit(queue, sector);
        self.complete(queue)
    }
}
