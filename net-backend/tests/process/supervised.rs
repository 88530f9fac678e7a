// SPDX-License-Identifier: Apache-2.0
//! A network card whose backends are started as the supervisor starts them, and come and go; a driver
//! that numbers its frames, and the tap's other side.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use ipc::mac::MacAddress;
use loadgen::connection::{Connection, Place};
use loadgen::memory::Memory;
use loadgen::net::host::{Interface, Packets, enter_namespace};
use loadgen::net::{ControlQueue, Direction, HEADER_BYTES, Queue};
use loadgen::ring::RingOptions;
use loadgen::supervised::{NetGeneration, NetSlot};

use crate::harness::{BINARY, GUEST, HOST, KIND, PATIENCE, TAP, frame, places};

pub(crate) struct Harness {
    pub(crate) slot: NetSlot,
    socket: PathBuf,
    memory: Memory,
    pub(crate) receive: Vec<Queue>,
    pub(crate) transmit: Vec<Queue>,
    control: ControlQueue,
    pub(crate) places: Vec<Place>,
    pub(crate) interface: Interface,
    pub(crate) host: Packets,
    features: u64,
    pub(crate) living: Option<(NetGeneration, Connection)>,
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Harness {
    pub(crate) fn new(name: &str, pairs: u16, features: u64) -> Self {
        enter_namespace().unwrap();
        let socket = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}.sock", std::process::id()));
        let slot = NetSlot::new(Path::new(BINARY), TAP, pairs, MacAddress(GUEST), &socket).unwrap();
        let interface = Interface::of(TAP).unwrap();
        interface.set_up(true).unwrap();
        let mut memory = Memory::new(64 << 20).unwrap();
        let options = RingOptions {
            size: 64,
            event_idx: true,
            start: 0xfff0,
        };
        let mut queues = |direction| {
            let make = |_| Queue::new(&mut memory, options, 2048, direction).unwrap();
            (0..pairs).map(make).collect::<Vec<_>>()
        };
        let (receive, transmit) = (queues(Direction::Receive), queues(Direction::Transmit));
        let control = ControlQueue::new(&mut memory, options).unwrap();
        let mut harness = Self {
            places: places(&receive, &transmit, &control),
            host: interface.packets(false).unwrap(),
            slot,
            socket,
            memory,
            receive,
            transmit,
            control,
            interface,
            features,
            living: None,
        };
        harness.bring_up();
        harness
    }

    pub(crate) fn bring_up(&mut self) {
        let next = self.connected();
        self.serve_with(next);
    }

    /// A backend that has shown what it offers, and serves nothing yet.
    pub(crate) fn connected(&self) -> (NetGeneration, Connection) {
        let generation = self.slot.start().unwrap();
        let connection = Connection::open(&self.socket, PATIENCE).unwrap();
        (generation, connection)
    }

    pub(crate) fn serve_with(&mut self, (generation, mut connection): (NetGeneration, Connection)) {
        connection
            .start(self.features, &self.memory, &self.places)
            .unwrap();
        self.living = Some((generation, connection));
    }

    pub(crate) fn kill(&mut self) {
        let (generation, connection) = self.living.take().unwrap();
        generation.kill().unwrap();
        drop(connection);
    }

    pub(crate) fn command(&mut self, bytes: &[u8]) -> Option<u8> {
        self.control.command(bytes, PATIENCE).unwrap()
    }

    /// The number of the next frame that the host sees.
    pub(crate) fn host_sees(&self, patience: Duration) -> Option<u32> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let frame = self.host.receive(left).unwrap()?;
            if frame.get(12..14) == Some(&KIND) {
                return Some(number_of(&frame));
            }
        }
    }

    /// The number of the next frame that the driver gets.
    pub(crate) fn guest_gets(&mut self, patience: Duration) -> Option<u32> {
        let deadline = Instant::now() + patience;
        let queue = &mut self.receive[0];
        while Instant::now() < deadline {
            while let Some(frame) = queue.receive().unwrap() {
                queue.offer_room(u16::MAX);
                queue.show();
                if frame.get(HEADER_BYTES + 12..HEADER_BYTES + 14) == Some(&KIND) {
                    return Some(number_of(&frame[HEADER_BYTES..]));
                }
            }
            queue.wait(Duration::ZERO, Duration::from_millis(5));
        }
        None
    }

    /// Where the driver's frames are, for a test that fails: how many the backend has not used, and
    /// what it counted.
    pub(crate) fn last_seen(&self) -> String {
        let outstanding = self.transmit[0].ring.outstanding();
        let living = self
            .living
            .as_ref()
            .map(|(generation, _)| &generation.health);
        let counted = living.map(|health| {
            let sent = health.queues[1].requests.load(Relaxed);
            (sent, health.drops.by_reason().map(|(_, count)| count))
        });
        format!("{outstanding} are not used; sent and dropped by the last backend: {counted:?}")
    }

    pub(crate) fn send(&mut self, number: u32) {
        assert!(self.try_send(number, 200), "no buffer is free");
    }

    /// Sends a frame of a length, unless the queue is full.
    pub(crate) fn try_send(&mut self, number: u32, len: usize) -> bool {
        let queue = &mut self.transmit[0];
        queue.reap().unwrap();
        let frame = frame(HOST, GUEST, number, len);
        let offered = queue.offer(&[&[0; HEADER_BYTES][..], &frame].concat());
        queue.show();
        offered
    }
}

fn number_of(frame: &[u8]) -> u32 {
    u32::from_le_bytes(frame[14..18].try_into().unwrap())
}
