// SPDX-License-Identifier: Apache-2.0
//! Backends die and are succeeded in good order while driver and host send as fast as they can: no
//! buffer is ever used twice, and what arrives is in order.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use loadgen::net::host::Packets;
use loadgen::net::{HEADER_BYTES, Queue};

use crate::harness::{FEATURES, GUEST, HOST, KIND, MRG_RXBUF, frame};
use crate::supervised::Harness;

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

/// Another backend takes over in good order: all that was taken from a queue has been used, or will
/// be taken again.
fn succeed(harness: &mut Harness) {
    let next = harness.connected();
    if let Some((_, connection)) = &mut harness.living {
        for (index, place) in harness.places.iter().enumerate() {
            assert_eq!(connection.stop_ring(index).unwrap(), place.used_idx());
        }
    }
    harness.kill();
    harness.serve_with(next);
}

#[test]
fn full_speed_traffic_survives_deaths_and_successions() {
    let mut harness = Harness::new("turnover", 1, FEATURES | MRG_RXBUF);
    let over = Arc::new(AtomicBool::new(false));
    let host = harness.interface.packets(false).unwrap();
    let flooder = thread::spawn({
        let over = over.clone();
        move || flood(&host, &over)
    });
    let driver = Driver {
        receive: harness.receive.remove(0),
        transmit: harness.transmit.remove(0),
    };
    let driver = thread::spawn({
        let over = over.clone();
        move || driver.work(&over)
    });
    for round in 0..ROUNDS {
        thread::sleep(SERVICE);
        if round % 2 == 0 {
            harness.kill();
            harness.bring_up();
        } else {
            succeed(&mut harness);
        }
    }
    thread::sleep(SERVICE);
    over.store(true, Relaxed);
    let seen = driver.join().unwrap();
    flooder.join().unwrap();
    assert!(seen.sent > ROUNDS && seen.received > ROUNDS, "{seen:?}");
    assert_eq!(seen.backwards, 0, "{seen:?}");
}
