// SPDX-License-Identifier: Apache-2.0
//! A power button's worker under a hostile driver: rings anywhere and of any content, buffers of any
//! shape, rings and memory replaced in between, and workers that die and are followed by others. It may
//! refuse a queue; it may not panic, wait within a round, or tell of more presses than there were.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use device_backend::GuestMemory;
use device_backend::queue_device::Model as _;
use device_backend::shared_mem::SharedMem;
use device_backend::vring::Vring;
use input_backend::deliveries::Deliveries;
use input_backend::shared::Shared;
use input_backend::worker::{Progress, Worker};
use ipc::health::{self, HealthPage};
use vhost_user_backend::VringT;
use vm_memory::{Bytes, GuestAddress};

use crate::script::Script;

const SIZE: u16 = 16;
/// Where a queue is: its descriptors, available ring and used ring.
const PLACES: [[u64; 3]; 2] = [[0, 0x1000, 0x2000], [0x800, 0x1800, 0x2800]];
const DATA: u64 = 0x3000;
/// Two regions with a hole between them.
const REGIONS: [(GuestAddress, usize); 2] =
    [(GuestAddress(0), 0x8000), (GuestAddress(0x1_0000), 0x4000)];
const STEPS_MAX: usize = 200;
/// Rings that overlap can give a worker work without end.
const ROUNDS_MAX: usize = 1000;

struct World {
    shared: Arc<Shared>,
    worker: Worker,
    progress: Progress,
    vrings: Vec<Vring>,
    memory: GuestMemory,
    state: SharedMem,
    avail: [u16; 2],
    pressed: u32,
    /// How many presses the driver was told of, as the workers count them.
    told_before: u64,
    /// A worker has died, or a press was noted that was none.
    is_doubtful: bool,
}

pub(crate) fn run(data: &[u8]) {
    let mut script = Script::new(data);
    let mut world = World::new();
    for _ in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        world.step(step, &mut script);
    }
    world.serve();
    let told = world.shared.health(0).requests.load(Relaxed) - world.told_before;
    assert!(world.is_doubtful || told <= u64::from(world.pressed));
    assert!(world.shared.pending() <= world.pressed);
}

fn health() -> &'static HealthPage {
    static HEALTH: OnceLock<HealthPage> = OnceLock::new();
    HEALTH.get_or_init(|| HealthPage::map(health::create().unwrap()).unwrap())
}

fn shared(pressed: u32, state: &SharedMem) -> Arc<Shared> {
    Shared::new(pressed, Deliveries::new(state.clone()), health())
}

impl World {
    fn new() -> Self {
        let state = SharedMem::private(16);
        let shared = shared(0, &state);
        let vrings = (0..2).map(|_| Vring::new(shared.memory.shared(), SIZE).unwrap());
        let vrings: Vec<_> = vrings.collect();
        let world = Self {
            worker: Worker::new(Arc::clone(&shared)),
            progress: Progress::default(),
            memory: GuestMemory::from_ranges(&REGIONS).unwrap(),
            told_before: shared.health(0).requests.load(Relaxed),
            shared,
            vrings,
            state,
            avail: [0; 2],
            pressed: 0,
            is_doubtful: false,
        };
        world.show_memory();
        for (vring, place) in world.vrings.iter().zip(PLACES) {
            vring.set_queue_size(SIZE);
            let _ = vring.set_queue_info(place[0], place[1], place[2]);
            vring.set_enabled(true);
            vring.set_queue_ready(true);
        }
        world
    }

    fn show_memory(&self) {
        let memory = self.shared.memory.shared();
        memory.lock().unwrap().replace(self.memory.clone());
        self.shared.memory.touch();
    }

    fn serve(&mut self) {
        let _ = (0..ROUNDS_MAX).any(|_| !self.worker.round(&self.vrings, &self.progress));
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        let queue = usize::from(step & 1);
        match step {
            0..0x40 => self.buffer(queue, script.u16() % SIZE),
            0x40..0x60 => {
                self.pressed += u32::from(step & 3);
                self.shared.press(self.pressed);
            }
            0x60..0x80 => self.describe(queue, script),
            0x80..0x90 => self.offer(queue, script.u16()),
            0x90..0xa0 => {
                let (at, bytes) = (u64::from(script.u16()), script.bytes());
                let _ = self.memory.write_slice(bytes, GuestAddress(at));
            }
            0xa0..0xe0 => self.serve(),
            0xe0..0xe8 => self.replace(queue, script),
            0xe8..0xf0 => {
                self.memory = GuestMemory::from_ranges(&REGIONS[..1 + queue]).unwrap();
                self.show_memory();
                self.avail = [0; 2];
            }
            0xf0..0xf8 => self.succeed(script),
            _ => self.vrings[queue].set_queue_next_avail(script.u16()),
        }
    }

    /// The frontend stops a ring and starts it elsewhere.
    fn replace(&mut self, queue: usize, script: &mut Script<'_>) {
        self.vrings[queue].set_queue_ready(false);
        self.serve();
        let place = match script.flag() {
            true => PLACES[queue],
            false => [script.u64() & !15, script.u64() & !1, script.u64() & !3],
        };
        let _ = self.vrings[queue].set_queue_info(place[0], place[1], place[2]);
        self.vrings[queue].set_queue_ready(true);
    }

    /// A worker dies, or has written what it likes to the state, and another follows.
    fn succeed(&mut self, script: &mut Script<'_>) {
        if script.flag() {
            let word = 8 * usize::from(script.u8() & 1);
            self.state
                .at::<AtomicU64>(word)
                .store(script.u64(), Relaxed);
        }
        self.is_doubtful = true;
        self.shared = shared(self.pressed, &self.state);
        self.worker = Worker::new(Arc::clone(&self.shared));
        self.show_memory();
    }

    /// A buffer as a driver makes it.
    fn buffer(&mut self, queue: usize, head: u16) {
        let address = DATA + 8 * u64::from(head);
        self.descriptor(queue, head, address, 8, 2);
        self.offer(queue, head);
    }

    fn describe(&mut self, queue: usize, script: &mut Script<'_>) {
        let head = script.u16() % SIZE;
        let address = match script.u8() {
            0..0xe0 => u64::from(script.u16()),
            _ => script.u64(),
        };
        let len = match script.u8() {
            short @ 0..0xe0 => u32::from(short),
            _ => script.u32(),
        };
        self.descriptor(queue, head, address, len, script.u16() & 7);
        self.offer(queue, head);
    }

    fn descriptor(&self, queue: usize, index: u16, address: u64, len: u32, flags: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend((index ^ 1).to_le_bytes());
        let at = GuestAddress(PLACES[queue][0] + 16 * u64::from(index));
        let _ = self.memory.write_slice(&bytes, at);
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let (ring, avail) = (PLACES[queue][1], &mut self.avail[queue]);
        let slot = GuestAddress(ring + 4 + 2 * u64::from(*avail % SIZE));
        let _ = self.memory.write_obj(head.to_le(), slot);
        *avail = avail.wrapping_add(1);
        let _ = self.memory.write_obj(avail.to_le(), GuestAddress(ring + 2));
    }
}
