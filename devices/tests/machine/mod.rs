// SPDX-License-Identifier: Apache-2.0
//! A machine without a processor: memory, a bus with one device, and a driver for disks. What KVM
//! does with eventfds is done here by hand.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use devices::bus::{Bus, Doorbells};
use devices::interrupt::{InterruptFabric, MsiMessage, MsiVectors, PINS};
use devices::pci::bar::Windows;
use devices::pci::root::PciFunction;
use devices::virtio::transport::pci::function::{Host, VirtioPci};
use devices::virtio::vhost_user::device::VhostUserDevice;
use devices::virtio::vhost_user::events::{DeviceEvent, DeviceEvents};
use devices::virtio::vhost_user::spec::DeviceSpec;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const BAR: u64 = 1 << 40;
const RAM_LEN: u64 = 4 << 20;
const QUEUE_SIZE: u16 = 8;

/// The host's side of doorbells and interrupts.
#[derive(Default)]
struct Wires {
    doorbells: Mutex<BTreeMap<u64, EventFd>>,
    calls: Mutex<BTreeMap<u16, EventFd>>,
    sent: Mutex<Vec<MsiMessage>>,
}

impl Doorbells for Wires {
    fn register(&self, address: u64, kick: &EventFd) -> io::Result<()> {
        self.doorbells
            .lock()
            .unwrap()
            .insert(address, kick.try_clone()?);
        Ok(())
    }
    fn unregister(&self, address: u64, _: &EventFd) -> io::Result<()> {
        self.doorbells.lock().unwrap().remove(&address);
        Ok(())
    }
}

impl MsiVectors for Wires {
    fn assign(&self, vector: u16, _: MsiMessage, call: &EventFd) -> io::Result<()> {
        self.calls.lock().unwrap().insert(vector, call.try_clone()?);
        Ok(())
    }
    fn deassign(&self, vector: u16, _: &EventFd) -> io::Result<()> {
        self.calls.lock().unwrap().remove(&vector);
        Ok(())
    }
}

impl InterruptFabric for Wires {
    fn send(&self, message: MsiMessage) {
        self.sent.lock().unwrap().push(message);
    }
    fn watch_level_pins(&self, _: &[Option<MsiMessage>; PINS]) {}
}

struct Reporter(Mutex<Sender<DeviceEvent>>);

impl DeviceEvents for Reporter {
    fn report(&self, event: DeviceEvent) {
        let _ = self.0.lock().unwrap().send(event);
    }
}

/// The machine.
pub(crate) struct Machine {
    pub(crate) device: Arc<VhostUserDevice>,
    function: VirtioPci,
    memory: GuestMemoryMmap<()>,
    bus: Arc<Bus>,
    wires: Arc<Wires>,
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
        let (device, bus, wires) = (
            Arc::new(device),
            Arc::<Bus>::default(),
            Arc::<Wires>::default(),
        );
        let host = Host {
            memory_space: Arc::clone(&bus),
            doorbells: Arc::clone(&wires) as _,
            interrupts: Arc::clone(&wires) as _,
            vectors: Arc::clone(&wires) as _,
        };
        let mut windows = Windows::new((0xc000_0000, 1 << 20), (BAR, 1 << 30)).unwrap();
        let function = VirtioPci::new(Arc::clone(&device) as _, host, &mut windows).unwrap();
        function.config_write(4, &[6, 0]);
        Self {
            device,
            function,
            memory,
            bus,
            wires,
            reports,
            available: [0; 2],
        }
    }

    pub(crate) fn report(&self) -> DeviceEvent {
        self.reports.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> u64 {
        let mut data = [0; 8];
        self.bus.read(BAR + offset, &mut data[..len]);
        u64::from_le_bytes(data)
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.bus.write(BAR + offset, data);
    }

    /// As a driver does: features, vectors, queues, go.
    pub(crate) fn start_driver(&mut self) {
        let mut msix = [0];
        self.function.config_read(0x34, &mut msix);
        let mut header = [0; 2];
        self.function.config_read(usize::from(msix[0]), &mut header);
        while header[0] != 0x11 {
            msix[0] = header[1];
            self.function.config_read(usize::from(msix[0]), &mut header);
        }
        self.function
            .config_write(usize::from(msix[0]) + 2, &[0, 0x80]);
        for vector in 0..3 {
            self.write(0x8000 + 16 * vector, &0xfee0_0000_u64.to_le_bytes());
            self.write(0x8008 + 16 * vector, &(0x30 + vector).to_le_bytes());
        }
        self.write(20, &[3]);
        // Version 1 and nothing else.
        for (select, features) in [(0_u32, 0_u32), (1, 1)] {
            self.write(8, &select.to_le_bytes());
            self.write(12, &features.to_le_bytes());
        }
        self.write(20, &[0xb]);
        assert_eq!(self.read(20, 1), 0xb);
        for queue in 0..2_u16 {
            self.set_up_queue(queue);
        }
        self.write(20, &[0xf]);
    }

    fn set_up_queue(&mut self, queue: u16) {
        let base = Self::base(queue);
        self.memory
            .write_slice(&[0; 0x3000], GuestAddress(base))
            .unwrap();
        self.available[usize::from(queue)] = 0;
        self.write(22, &queue.to_le_bytes());
        self.write(24, &QUEUE_SIZE.to_le_bytes());
        self.write(26, &(queue + 1).to_le_bytes());
        for part in 0..3 {
            self.write(32 + 8 * part, &(base + 0x1000 * part).to_le_bytes());
        }
        self.write(28, &[1, 0]);
        assert_eq!(self.read(28, 2), 1);
    }

    pub(crate) fn reset_driver(&self) {
        self.write(20, &[0]);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.read(20, 1) != 0 {
            assert!(Instant::now() < deadline, "the reset does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn base(queue: u16) -> u64 {
        0x10_0000 * (u64::from(queue) + 1)
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
        let doorbell = BAR + 0x3000 + 4 * u64::from(queue);
        let doorbells = self.wires.doorbells.lock().unwrap();
        doorbells.get(&doorbell).unwrap().write(1).unwrap();
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
        let calls = self.wires.calls.lock().unwrap();
        let call = calls.get(&(queue + 1)).unwrap();
        while !devices::virtio::eventfd::drain(call) {
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
