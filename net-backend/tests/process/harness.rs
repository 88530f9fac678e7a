// SPDX-License-Identifier: Apache-2.0
//! What the tests share: a network namespace with a tap, a backend on it, queues of a driver, and a
//! socket that sees the tap's other side.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use ipc::health::HealthPage;
use loadgen::connection::{Connection, Place};
use loadgen::memory::Memory;
use loadgen::net::host::{Interface, Packets, enter_namespace};
use loadgen::net::{ControlQueue, Direction, HEADER_BYTES, Queue};
use loadgen::program::Program;
use loadgen::ring::RingOptions;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_net-backend");
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// For what must not come.
pub(crate) const MOMENT: Duration = Duration::from_millis(100);
pub(crate) const TAP: &str = "tap0";
pub(crate) const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const HOST: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// An EtherType for experiments, which the host's network looks at no further.
pub(crate) const KIND: [u8; 2] = [0x88, 0xb5];

pub(crate) const MRG_RXBUF: u64 = 1 << 15;
pub(crate) const CTRL_VQ: u64 = 1 << 17;
pub(crate) const MQ: u64 = 1 << 22;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
/// VERSION_1, INDIRECT_DESC, EVENT_IDX, CSUM, GUEST_CSUM, both TSO4, STATUS, CTRL_VQ with RX and
/// VLAN and GUEST_OFFLOADS and MAC_ADDR.
pub(crate) const FEATURES: u64 = 1 << 32
    | 1 << 28
    | EVENT_IDX
    | 0b11
    | 1 << 7
    | 1 << 11
    | 1 << 16
    | CTRL_VQ
    | 1 << 18
    | 1 << 19
    | 1 << 2
    | 1 << 23;

/// How the driver's queues are to be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) pairs: u16,
    pub(crate) features: u64,
    pub(crate) size: u16,
    pub(crate) buffer_bytes: u32,
    pub(crate) start: u16,
}

pub(crate) const SHAPE: Shape = Shape {
    pairs: 1,
    features: FEATURES | MRG_RXBUF,
    size: 64,
    buffer_bytes: 2048,
    start: 0,
};

/// A backend that runs alone, its driver, and the tap's other side.
pub(crate) struct Harness {
    pub(crate) memory: Memory,
    pub(crate) receive: Vec<Queue>,
    pub(crate) transmit: Vec<Queue>,
    pub(crate) control: ControlQueue,
    pub(crate) host: Packets,
    pub(crate) interface: Interface,
    pub(crate) connection: Option<Connection>,
    program: Program,
    socket: PathBuf,
}

impl Harness {
    pub(crate) fn new(name: &str, arguments: &[&str], shape: Shape) -> Self {
        enter_namespace().unwrap();
        let socket = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}.sock", std::process::id()));
        let mut command = Command::new(BINARY);
        command
            .arg("--socket-path")
            .arg(&socket)
            .args(["--tap", TAP, "--seccomp", "log"])
            .args(["--queues", &shape.pairs.to_string()])
            .args(arguments);
        let program = Program::start(&mut command).unwrap();
        let mut connection = Connection::open(&socket, PATIENCE).unwrap();
        let interface = Interface::of(TAP).unwrap();
        interface.set_up(true).unwrap();
        let mut memory = Memory::new(64 << 20).unwrap();
        let options = RingOptions {
            size: shape.size,
            event_idx: shape.features & EVENT_IDX != 0,
            start: shape.start,
        };
        let mut queues = |direction| {
            let make = |_| Queue::new(&mut memory, options, shape.buffer_bytes, direction).unwrap();
            (0..shape.pairs).map(make).collect::<Vec<_>>()
        };
        let (receive, transmit) = (queues(Direction::Receive), queues(Direction::Transmit));
        let control = ControlQueue::new(&mut memory, options).unwrap();
        let places = places(&receive, &transmit, &control);
        connection.start(shape.features, &memory, &places).unwrap();
        Self {
            memory,
            receive,
            transmit,
            control,
            host: interface.packets(false).unwrap(),
            interface,
            connection: Some(connection),
            program,
            socket,
        }
    }

    /// Sends a frame without any offload.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_with([0; HEADER_BYTES], frame);
    }

    pub(crate) fn send_with(&mut self, header: [u8; HEADER_BYTES], frame: &[u8]) {
        let queue = &mut self.transmit[0];
        queue.reap().unwrap();
        assert!(queue.offer(&[&header, frame].concat()));
        queue.show();
    }

    /// Waits until everything that was sent is used.
    pub(crate) fn settle(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.transmit[0].ring.outstanding() > 0 {
            assert!(Instant::now() < deadline, "a frame was not used");
            self.transmit[0].reap().unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// The next experimental frame that the host sees; its own are among them.
    pub(crate) fn host_sees(&self, patience: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let frame = self.host.receive(left).unwrap()?;
            if frame.get(12..14) == Some(&KIND) {
                return Some(frame);
            }
        }
    }

    /// The next frame of a test that the driver gets on a pair, its header and what follows it.
    pub(crate) fn guest_gets(
        &mut self,
        pair: usize,
        patience: Duration,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let deadline = Instant::now() + patience;
        let queue = &mut self.receive[pair];
        while Instant::now() < deadline {
            while let Some(frame) = queue.receive().unwrap() {
                queue.offer_room(u16::MAX);
                queue.show();
                let (header, frame) = frame.split_at(HEADER_BYTES);
                // Not what the host's own network says, which is IPv6.
                if [&KIND[..], &[0x81, 0], &[8, 0]].contains(&&frame[12..14]) {
                    return Some((header.to_vec(), frame.to_vec()));
                }
            }
            queue.wait(Duration::ZERO, Duration::from_millis(20));
        }
        None
    }

    /// Sees to it that this was counted, so often, and nothing else was dropped of what is sent or
    /// asked for. What is received has the host's own network among it.
    pub(crate) fn expect_dropped(&self, expected: &[(&str, u64)]) {
        let dropped = self.health().drops.by_reason();
        let of_driver = dropped.into_iter().filter(|(reason, count)| {
            *count > 0 && !["unwanted", "too-long", "offload"].contains(reason)
        });
        assert_eq!(of_driver.collect::<Vec<_>>(), expected);
    }

    /// How often something was dropped for this reason.
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        let dropped = self.health().drops.by_reason();
        let found = dropped.iter().find(|(name, _)| *name == reason);
        found.unwrap().1
    }

    /// The health page of a backend that runs alone, which nobody but itself was params.
    fn health(&self) -> HealthPage {
        let process = PathBuf::from(format!("/proc/{}", self.program.id()));
        let maps = std::fs::read_to_string(process.join("maps")).unwrap();
        let line = maps.lines().find(|line| line.contains("memfd:health"));
        let (range, _) = line.unwrap().split_once(' ').unwrap();
        let file = process.join("map_files").join(range);
        let page = OpenOptions::new().read(true).write(true).open(file);
        HealthPage::map(page.unwrap()).unwrap()
    }

    pub(crate) fn command(&mut self, bytes: &[u8]) -> u8 {
        self.control.command(bytes, PATIENCE).unwrap().unwrap()
    }

    /// Hangs up and waits for the end. What was logged.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        drop(self.connection.take());
        self.program.end().unwrap()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The queues in the order of their numbers.
pub(crate) fn places(receive: &[Queue], transmit: &[Queue], control: &ControlQueue) -> Vec<Place> {
    let pairs = receive.iter().zip(transmit);
    let mut places: Vec<_> = pairs.flat_map(|(r, t)| [r.place(), t.place()]).collect();
    places.push(control.place());
    places
}

/// A frame of a length, with a number in it.
pub(crate) fn frame(to: [u8; 6], from: [u8; 6], number: u32, len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &KIND, &number.to_le_bytes()].concat();
    let filler = (0_u32..).map(|n| (n ^ number).to_le_bytes()[0]);
    frame.extend(filler.take(len - frame.len()));
    frame
}
