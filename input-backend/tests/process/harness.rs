// SPDX-License-Identifier: Apache-2.0
//! What the tests share: a button whose backends come and go as under a supervisor, and the queues of
//! a driver.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use input_backend::event::{EVENT_BYTES, PRESS};
use loadgen::connection::{Connection, Place, QueueFds};
use loadgen::memory::Memory;
use loadgen::ring::{Descriptor, Ring, RingOptions, WRITE};
use loadgen::supervised::{InputGeneration, InputSlot};
use vm_memory::GuestAddress;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_input-backend");
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// For what must not come.
pub(crate) const MOMENT: Duration = Duration::from_millis(100);
/// The descriptors of a queue, as many as Linux uses.
pub(crate) const SIZE: u16 = 64;
/// VIRTIO_F_VERSION_1.
const FEATURES: u64 = 1 << 32;

/// One queue of the driver, whose head N has buffer N.
pub(crate) struct Queue {
    pub(crate) ring: Ring,
    pub(crate) fds: Arc<QueueFds>,
    buffers: GuestAddress,
}

impl Queue {
    fn new(memory: &mut Memory, start: u16) -> Self {
        let options = RingOptions {
            size: SIZE,
            event_idx: false,
            start,
        };
        Self {
            ring: Ring::new(memory, options).unwrap(),
            fds: Arc::new(QueueFds::new().unwrap()),
            buffers: memory
                .take(u64::from(SIZE) * u64::from(EVENT_BYTES))
                .unwrap(),
        }
    }

    pub(crate) fn buffer(&self, head: u16) -> Descriptor {
        Descriptor {
            address: GuestAddress(self.buffers.0 + u64::from(head) * u64::from(EVENT_BYTES)),
            len_bytes: EVENT_BYTES,
            flags: WRITE,
            next: 0,
        }
    }

    /// Makes these heads available.
    pub(crate) fn offer(&mut self, heads: impl IntoIterator<Item = u16>) {
        for head in heads {
            self.ring.describe(head, self.buffer(head));
            self.ring.offer(head);
        }
        self.kick();
    }

    pub(crate) fn kick(&mut self) {
        if self.ring.show() {
            self.fds.kick.write(1).unwrap();
        }
    }

    pub(crate) fn place(&self) -> Place {
        Place {
            size: SIZE,
            addresses: self.ring.addresses(),
            used: self.ring.used().clone(),
            fds: Arc::clone(&self.fds),
        }
    }
}

/// A button, its living backend, and its driver.
pub(crate) struct Harness {
    pub(crate) slot: InputSlot,
    socket: PathBuf,
    pub(crate) memory: Memory,
    pub(crate) events: Queue,
    pub(crate) status: Queue,
    pub(crate) living: Option<(InputGeneration, Connection)>,
    pub(crate) pressed: u32,
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Harness {
    /// A button without a backend yet, with queues that begin at an index.
    pub(crate) fn new(name: &str, start: u16) -> Self {
        let socket = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}.sock", std::process::id()));
        let slot = InputSlot::new(Path::new(BINARY), &socket).unwrap();
        let mut memory = Memory::new(1 << 20).unwrap();
        let events = Queue::new(&mut memory, start);
        let status = Queue::new(&mut memory, start);
        Self {
            slot,
            socket,
            memory,
            events,
            status,
            living: None,
            pressed: 0,
        }
    }

    /// Starts a backend, and the queues on it.
    pub(crate) fn bring_up(&mut self) {
        let generation = self.slot.start(self.pressed).unwrap();
        let mut connection = Connection::open(&self.socket, PATIENCE).unwrap();
        let places = [self.events.place(), self.status.place()];
        connection.start(FEATURES, &self.memory, &places).unwrap();
        self.living = Some((generation, connection));
    }

    pub(crate) fn kill(&mut self) {
        let (generation, connection) = self.living.take().unwrap();
        generation.kill().unwrap();
        drop(connection);
    }

    /// The driver resets the device, and makes new queues. No backend lives.
    pub(crate) fn reset(&mut self) {
        self.events = Queue::new(&mut self.memory, 0);
        self.status = Queue::new(&mut self.memory, 0);
    }

    pub(crate) fn press(&mut self) {
        self.pressed += 1;
        if let Some((generation, _)) = &self.living {
            generation.press(self.pressed).unwrap();
        }
    }

    /// The events that come until there are so many, or for so long; each buffer is offered again.
    pub(crate) fn events(&mut self, count: usize, patience: Duration) -> Vec<[u8; 8]> {
        let (deadline, mut got) = (Instant::now() + patience, Vec::new());
        while got.len() < count && Instant::now() < deadline {
            let Some((head, written)) = self.events.ring.reap().unwrap() else {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            };
            assert_eq!(written, EVENT_BYTES);
            let mut event = [0; 8];
            self.memory
                .read(&mut event, self.events.buffer(head).address);
            got.push(event);
            self.events.offer([head]);
        }
        got
    }

    /// Sees to it that the driver is told of so many presses, and of no more.
    pub(crate) fn expect_presses(&mut self, count: usize) {
        let got = self.events(PRESS.len() * count, PATIENCE);
        assert_eq!(got, PRESS.repeat(count));
        assert!(self.events(1, MOMENT).is_empty(), "there was another event");
    }

    /// Whether a flag of a queue is set on the health page.
    pub(crate) fn has_flag(&self, queue: usize, flag: u32) -> bool {
        let (generation, _) = self.living.as_ref().unwrap();
        generation.health().queues[queue].flags.load(Relaxed) & flag != 0
    }

    pub(crate) fn wait_for_flag(&self, queue: usize, flag: u32) {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_flag(queue, flag) {
            assert!(Instant::now() < deadline, "flag {flag} was not set");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
