// SPDX-License-Identifier: Apache-2.0
//! A disk's worker, from the rings of a hostile driver to an engine and back: chains of any shape,
//! rings anywhere, in-flight regions of a predecessor, rings and memory replaced in between. It may
//! refuse the queue; it may not panic, wait, or answer more than was asked.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use blk_backend::config::Disk;
use blk_backend::device::Device;
use blk_backend::engine::Engine;
use blk_backend::engine::threads::Threads;
use blk_backend::shared::Shared;
use blk_backend::worker::Worker;
use device_backend::GuestMemory;
use device_backend::serve::Device as _;
use device_backend::shared_mem::SharedMem;
use device_backend::vring::Vring;
use ipc::health::{self, HealthPage};
use ipc::memfd::{Backing, shared};
use ipc::record::Geometry;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vhost_user_backend::{VhostUserBackend, VringT};
use vm_memory::{Bytes, GuestAddress};

use crate::script::Script;

const SIZE: u16 = 16;
const DISK_LEN: u64 = 256 << 10;
const DESC: u64 = 0;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const DATA: u64 = 0x3000;
/// Two regions with a hole between them.
const REGIONS: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 0x8000), (GuestAddress(0x1_0000), 0x4000)];
const STEPS_MAX: usize = 200;
/// A ring whose parts overlap can give a worker work without end.
const ROUNDS_MAX: usize = 1000;
/// How long the disk may take; nothing a guest does may make it longer.
const PATIENCE_MS: u16 = 20_000;

struct World {
    device: Arc<Device>,
    worker: Worker,
    vring: Vring,
    memory: GuestMemory,
    /// The in-flight region, which a hostile vmm writes to at any time.
    region: Option<SharedMem>,
    avail: u16,
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new(&mut script);
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        world.step(step, &mut script);
    }
    world.vring.set_queue_ready(false);
    assert!(world.settle(), "a stopped ring has work without end");
}

fn health() -> &'static HealthPage {
    static HEALTH: OnceLock<HealthPage> = OnceLock::new();
    HEALTH.get_or_init(|| HealthPage::map(health::create().unwrap()).unwrap())
}

impl World {
    fn new(script: &mut Script<'_>) -> Self {
        let shape = script.u8();
        let file = shared("disk", DISK_LEN, Backing::Shmem).unwrap();
        let disk = Disk {
            geometry: Geometry {
                capacity_bytes: DISK_LEN,
                logical_block_bytes: 512,
                physical_block_bytes: 4096,
                storage_block_bytes: if shape & 32 == 0 { 512 } else { 4096 },
                memory_align_bytes: if shape & 1 == 0 { 1 } else { 512 },
                block_device: false,
            },
            readonly: shape & 2 != 0,
            serial: Disk::serial_from("fuzz"),
            queues: 1,
            queue_size: SIZE,
        };
        let features = disk.features() & !(u64::from(script.u8()) << 24);
        let shared = Shared::new(disk, health(), shape & 4 != 0);
        let device = Device::new(Arc::clone(&shared), Vec::new()).unwrap();
        let engine = Threads::new(Arc::new(File::from(file)), shape & 8 != 0).unwrap();
        let region = (shape & 16 != 0).then(|| region(script.bytes()));
        let worker = Worker::new(0, shared, Engine::Threads(engine), region.clone(), 0);
        let memory = GuestMemory::from_ranges(&REGIONS).unwrap();
        let vring = Vring::new(device.memory(), SIZE).unwrap();
        vring.set_queue_size(SIZE);
        let world = Self {
            device,
            worker,
            vring,
            memory,
            region,
            avail: 0,
        };
        world.show_memory();
        world.device.acked_features(features);
        world.vring.set_queue_event_idx(features & 1 << 29 != 0);
        world.place(DESC, AVAIL, USED);
        world.vring.set_enabled(true);
        world.vring.set_queue_ready(true);
        world
    }

    fn show_memory(&self) {
        let memory = self.device.memory();
        memory.lock().unwrap().replace(self.memory.clone());
        // As the protocol does: the worker looks at memory again.
        self.device.acked_features(1 << 32);
    }

    fn place(&self, desc: u64, avail: u64, used: u64) {
        let _ = self.vring.set_queue_info(desc, avail, used);
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step {
            0..0x40 => self.request(script),
            0x40..0x70 => self.describe(script),
            0x70..0xa0 => self.offer(script.u16()),
            0xa0..0xb0 => {
                self.avail = script.u16();
                self.offer(script.u16());
            }
            0xb0..0xb8 => self.scribble(script),
            0xb8..0xc0 => {
                let (at, bytes) = (u64::from(script.u16()), script.bytes());
                let _ = self.memory.write_slice(bytes, GuestAddress(at));
            }
            0xc0..0xe8 => _ = self.serve(),
            0xe8..0xf0 => _ = self.settle(),
            0xf0..0xf8 => {
                self.vring.set_queue_ready(false);
                self.serve();
                self.place(script.u64() & !15, script.u64() & !1, script.u64() & !3);
                self.vring.set_queue_ready(true);
            }
            0xf8..0xfc => {
                self.memory = GuestMemory::from_ranges(&REGIONS[..1]).unwrap();
                self.show_memory();
            }
            _ => {
                self.place(DESC, AVAIL, USED);
                self.vring.set_queue_next_avail(script.u16());
            }
        }
    }

    /// The vmm writes to the in-flight region, as it may while requests run.
    fn scribble(&self, script: &mut Script<'_>) {
        let Some(region) = &self.region else { return };
        let (at, byte) = (usize::from(script.u16()), script.u8());
        // Of the whole region as often as of one byte of it.
        let bytes = match script.flag() {
            true => 0..region.len_bytes(),
            false => at % region.len_bytes()..at % region.len_bytes() + 1,
        };
        for at in bytes {
            region.at::<AtomicU8>(at).store(byte, Relaxed);
        }
    }

    /// A request as a driver makes it, but for its numbers.
    fn request(&mut self, script: &mut Script<'_>) {
        let head = script.u16() % SIZE;
        let header = DATA + 0x20 * u64::from(head);
        let (kind, sector) = (u32::from(script.u8() % 16), u64::from(script.u16()));
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        let _ = self.memory.write_slice(&bytes, GuestAddress(header));
        let (second, third) = ((head + 1) % SIZE, (head + 2) % SIZE);
        let len = match script.u8() {
            sectors @ 0..0x80 => 512 * (u32::from(sectors) % 16 + 1),
            odd => u32::from(odd),
        };
        let write = if kind == 1 || script.u8() > 0xf0 {
            0
        } else {
            2
        };
        self.descriptor(head, header, 16, 1, second);
        self.descriptor(second, 0x4000, len, 1 | write, third);
        self.descriptor(third, header + 16, 1, 2, 0);
        self.offer(head);
    }

    fn describe(&mut self, script: &mut Script<'_>) {
        let index = script.u16() % SIZE;
        let address = match script.u8() {
            0..0xe0 => DATA + u64::from(script.u16()),
            _ => script.u64(),
        };
        let len = match script.u8() {
            0..0xe0 => u32::from(script.u16()),
            _ => script.u32(),
        };
        self.descriptor(
            index,
            address,
            len,
            script.u16() & 7,
            script.u16() % (SIZE + 1),
        );
    }

    fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        let at = GuestAddress(DESC + 16 * u64::from(index));
        let _ = self.memory.write_slice(&bytes, at);
    }

    fn offer(&mut self, head: u16) {
        let slot = AVAIL + 4 + 2 * u64::from(self.avail % SIZE);
        let _ = self.memory.write_obj(head.to_le(), GuestAddress(slot));
        self.avail = self.avail.wrapping_add(1);
        let index = GuestAddress(AVAIL + 2);
        let _ = self.memory.write_obj(self.avail.to_le(), index);
    }

    /// Lets the worker do what there is; returns whether there is an end to it.
    fn serve(&mut self) -> bool {
        (0..ROUNDS_MAX).any(|_| !self.worker.round(&self.vring).unwrap())
    }

    /// Lets the worker do all there is, and waits for the disk; returns whether there is an end to it.
    fn settle(&mut self) -> bool {
        loop {
            if !self.serve() {
                return false;
            }
            if self.worker.is_drained(&self.vring) {
                return true;
            }
            let engine = self.worker.engine().as_fd();
            let mut fds = [PollFd::new(engine, PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(PATIENCE_MS));
            assert_ne!(ready, Ok(0), "the disk does not answer");
        }
    }
}

/// What a predecessor left behind.
fn region(content: &[u8]) -> SharedMem {
    let window = SharedMem::private(ipc::inflight::queue_bytes(SIZE));
    for (at, byte) in content.iter().enumerate().take(window.len_bytes()) {
        window.at::<AtomicU8>(at).store(*byte, Relaxed);
    }
    window
}
