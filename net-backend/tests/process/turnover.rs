// SPDX-License-Identifier: Apache-2.0
//! Backends die and are succeeded in good order while driver and host send as fast as they can: no
//! buffer is ever used twice, and what arrives is in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use loadgen::connection::{Connection, Place};
use loadgen::memory::Memory;
use loadgen::net::host::{Interface, Packets, enter_namespace};
use loadgen::net::{ControlQueue, Direction, HEADER_BYTES, Queue};
use loadgen::ring::RingOptions;
use loadgen::supervised_net::{NetGeneration, NetSlot};

use crate::stand::{BINARY, FEATURES, GUEST, HOST, KIND, MRG_RXBUF, PATIENCE, TAP, frame, places};

/// How often the backend is replaced; every other time in good order.
const ROUNDS: u32 = 60;
/// For how long each serves.
const SERVICE: Duration = Duration::from_millis(15);

/// What the driver saw.
#[derive(Debug, Default)]
struct Seen {
    sent: u32,
    received: u32,
    backwards: u32,
}

/// A driver at full speed.
struct Driver {
    receive: Queue,
    transmit: Queue,
}

impl Driver {
    fn work(mut self, over: &AtomicBool) -> Seen {
        let mut seen = Seen::default();
        let mut last = None;
        while !over.load(Relaxed) {
            self.transmit.reap().unwrap();
            let bytes = frame(HOST, GUEST, seen.sent, 200);
            if self
                .transmit
                .offer(&[&[0; HEADER_BYTES][..], &bytes].concat())
            {
                seen.sent += 1;
            }
            self.transmit.show();
            while let Some(received) = self.receive.receive().unwrap() {
                let frame = &received[HEADER_BYTES..];
                if frame.get(12..14) != Some(&KIND) {
                    continue;
                }
                let number = u32::from_le_bytes(frame[14..18].try_into().unwrap());
                seen.backwards += u32::from(last.is_some_and(|last| number <= last));
                last = Some(number);
                seen.received += 1;
            }
            self.receive.offer_room(u16::MAX);
            self.receive.show();
            if self.transmit.ring.outstanding() > 32 {
                self.transmit.wait(Duration::ZERO, Duration::from_millis(1));
            }
        }
        seen
    }
}

fn flood(host: &Packets, over: &AtomicBool) {
    for number in 0.. {
        if over.load(Relaxed) {
            return;
        }
        // Refused when the tap is full.
        let _ = host.send(&frame(GUEST, HOST, number, 200));
        if number % 16 == 0 {
            thread::sleep(Duration::from_micros(100));
        }
    }
}

struct Card {
    slot: NetSlot,
    socket: PathBuf,
    memory: Memory,
    places: Vec<Place>,
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl Card {
    fn open(&self) -> (NetGeneration, Connection) {
        let generation = self.slot.start().unwrap();
        let connection = Connection::open(&self.socket, PATIENCE).unwrap();
        (generation, connection)
    }

    fn start(&self, connection: &mut Connection) {
        let features = FEATURES | MRG_RXBUF;
        connection
            .start(features, &self.memory, &self.places)
            .unwrap();
    }

    /// Stops every queue; all that was taken from it has been used, or will be taken again.
    fn drain(&self, connection: &mut Connection) {
        for (index, place) in self.places.iter().enumerate() {
            assert_eq!(connection.stop_ring(index).unwrap(), place.used_idx());
        }
    }
}

#[test]
fn full_speed_traffic_survives_deaths_and_successions() {
    enter_namespace().unwrap();
    let socket = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("turnover-{}.sock", std::process::id()));
    let slot = NetSlot::new(Path::new(BINARY), TAP, 1, GUEST, &socket).unwrap();
    let interface = Interface::of(TAP).unwrap();
    interface.set_up(true).unwrap();
    let mut memory = Memory::new(64 << 20).unwrap();
    let options = RingOptions {
        size: 64,
        event_idx: true,
        start: 0xff00,
    };
    let mut queue = |direction| Queue::new(&mut memory, options, 2048, direction).unwrap();
    let (receive, transmit) = (queue(Direction::Receive), queue(Direction::Transmit));
    let control = ControlQueue::new(&mut memory, options).unwrap();
    let (receive, transmit) = ([receive], [transmit]);
    let card = Card {
        places: places(&receive, &transmit, &control),
        slot,
        socket,
        memory,
    };
    let ([receive], [transmit]) = (receive, transmit);
    let over = Arc::new(AtomicBool::new(false));
    let host = interface.packets(false).unwrap();
    let flooder = thread::spawn({
        let over = over.clone();
        move || flood(&host, &over)
    });
    let driver = Driver { receive, transmit };
    let driver = thread::spawn({
        let over = over.clone();
        move || driver.work(&over)
    });

    let (mut generation, mut connection) = card.open();
    card.start(&mut connection);
    for round in 0..ROUNDS {
        thread::sleep(SERVICE);
        if round % 2 == 0 {
            generation.kill().unwrap();
            (generation, connection) = card.open();
        } else {
            let next = card.open();
            card.drain(&mut connection);
            drop(connection);
            generation.kill().unwrap();
            (generation, connection) = next;
        }
        card.start(&mut connection);
    }
    thread::sleep(SERVICE);
    over.store(true, Relaxed);
    let seen = driver.join().unwrap();
    flooder.join().unwrap();
    generation.kill().unwrap();
    println!("{seen:?}");
    assert!(seen.sent > ROUNDS && seen.received > ROUNDS, "{seen:?}");
    assert_eq!(seen.backwards, 0, "{seen:?}");
}
