// SPDX-License-Identifier: Apache-2.0
//! The backend dies under traffic, again and again: the tap keeps its carrier, what waits in it
//! comes, and each death costs at most one frame that is repeated and one that is lost.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use ipc::control::ToBackend;
use loadgen::net::HEADER_BYTES;

use crate::harness::{FEATURES, GUEST, HOST, MOMENT, MRG_RXBUF, PATIENCE, frame};
use crate::supervised::Harness;

/// VIRTIO_NET_F_CTRL_VQ, and what needs it: RX, VLAN, MAC_ADDR, GUEST_OFFLOADS.
const CONTROL: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 23 | 1 << 2;
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 9];

const KILLS: u32 = 30;
/// How many frames are sent around each death.
const BURST: u32 = 20;

#[test]
fn frames_sent_around_a_death_arrive_in_order_and_at_most_one_twice() {
    let mut harness = Harness::new("kill-send", 1, FEATURES | MRG_RXBUF);
    let (mut next, mut repeated) = (0, 0);
    for kill in 0..KILLS {
        for number in 0..BURST {
            harness.send(kill * BURST + number);
            if number == kill % BURST {
                harness.kill();
                assert!(harness.interface.has_carrier().unwrap());
                harness.bring_up();
            }
        }
        let mut before = repeated;
        while next < (kill + 1) * BURST {
            match harness.host_sees(PATIENCE) {
                Some(number) if number == next => next += 1,
                Some(number) if number + 1 == next => repeated += 1,
                Some(number) => panic!("{number} came after {next}"),
                None => panic!("frame {next} was lost: {}", harness.last_seen()),
            }
        }
        before = repeated - before;
        assert!(before <= 1, "{before} frames came twice after one death");
    }
}

#[test]
fn frames_received_around_a_death_arrive_in_order_and_at_most_one_is_lost() {
    let mut harness = Harness::new("kill-receive", 1, FEATURES | MRG_RXBUF);
    for kill in 0..KILLS {
        let first = kill * (BURST + 1);
        for number in first..first + BURST {
            harness.host.send(&frame(GUEST, HOST, number, 200)).unwrap();
            if number == first + kill % BURST {
                harness.kill();
                assert!(harness.interface.has_carrier().unwrap());
            }
        }
        harness.bring_up();
        // The frame lost may be the last of the burst: one more shows where the burst ended.
        let last = first + BURST;
        harness.host.send(&frame(GUEST, HOST, last, 200)).unwrap();
        let (mut next, mut lost) = (first, 0);
        while next <= last {
            let number = harness.guest_gets(PATIENCE).expect("frames were lost");
            assert!(number >= next, "{number} came after {next}");
            lost += number - next;
            next = number + 1;
        }
        assert!(lost <= 1, "{lost} frames were lost at one death");
    }
}

/// Of a flow of its own, so that the tap may put it into any of its queues.
fn of_a_flow(number: u8) -> Vec<u8> {
    let mut packet = frame(GUEST, HOST, 0, 60);
    packet[12..14].copy_from_slice(&[8, 0]);
    // IPv4, UDP, from 10.0.0.2 to 10.0.0.1.
    let header = [
        0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1,
    ];
    packet[14..34].copy_from_slice(&header);
    packet[34..42].copy_from_slice(&[7, number, 7, 7, 0, 26, 0, 0]);
    packet
}

const FLOWS: u8 = 40;

/// Sends one frame of each flow, lets `then` be done, and counts what comes in each queue.
fn spread(harness: &mut Harness, then: impl FnOnce(&mut Harness)) -> [u8; 2] {
    for number in 0..FLOWS {
        harness.host.send(&of_a_flow(number)).unwrap();
    }
    then(harness);
    let mut came = [0, 0];
    let deadline = Instant::now() + PATIENCE;
    while came[0] + came[1] < FLOWS {
        assert!(Instant::now() < deadline, "frames were lost: {came:?}");
        for (queue, came) in harness.receive.iter_mut().zip(&mut came) {
            while let Some(frame) = queue.receive().unwrap() {
                let kind = frame.get(HEADER_BYTES + 12..HEADER_BYTES + 14);
                *came += u8::from(kind == Some(&[8, 0]));
                queue.offer_room(u16::MAX);
                queue.show();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    came
}

#[test]
fn frames_wait_in_every_queue_of_the_tap_while_nobody_serves_it() {
    let mut harness = Harness::new("kill-queues", 2, FEATURES | MRG_RXBUF | 1 << 22);
    assert_eq!(harness.command(&[4, 0, 2, 0]), Some(0));
    for in_good_order in [false, true] {
        if in_good_order {
            let (_, connection) = harness.living.as_mut().unwrap();
            for index in 0..harness.places.len() {
                connection.stop_ring(index).unwrap();
            }
        }
        harness.kill();
        let came = spread(&mut harness, Harness::bring_up);
        assert!(came[0] > 0 && came[1] > 0, "{came:?}");
    }
}

#[test]
fn driver_that_cannot_ask_for_more_gets_everything_in_its_one_pair() {
    for features in [FEATURES & !CONTROL, FEATURES] {
        let mut harness = Harness::new("one-pair", 2, features | MRG_RXBUF);
        assert_eq!(spread(&mut harness, |_| {}), [FLOWS, 0]);
        harness.kill();
        assert_eq!(spread(&mut harness, Harness::bring_up), [FLOWS, 0]);
    }
}

#[test]
fn wishes_of_the_driver_outlive_the_process() {
    let mut harness = Harness::new("kill-driver_config", 1, FEATURES | MRG_RXBUF);
    // Not promiscuous, one more address.
    assert_eq!(harness.command(&[0, 0, 0]), Some(0));
    let table = [1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0, 0, 0, 0];
    assert_eq!(harness.command(&table), Some(0));
    for round in 0..3 {
        harness.kill();
        harness.bring_up();
        let unwanted = frame([2, 0, 0, 0, 0, 8], HOST, 1000, 60);
        harness.host.send(&unwanted).unwrap();
        harness
            .host
            .send(&frame(STRANGER, HOST, round, 60))
            .unwrap();
        assert_eq!(harness.guest_gets(PATIENCE), Some(round));
    }
    // The frontend clears it when the device is reset.
    harness.kill();
    let state = std::fs::File::from(harness.slot.state().try_clone().unwrap());
    std::os::unix::fs::FileExt::write_all_at(&state, &[0; 4096], 0).unwrap();
    harness.bring_up();
    harness
        .host
        .send(&frame([2, 0, 0, 0, 0, 8], HOST, 77, 60))
        .unwrap();
    assert_eq!(harness.guest_gets(PATIENCE), Some(77));
}

#[test]
fn wishes_that_are_rubbish_do_no_harm() {
    let mut harness = Harness::new("rubbish", 2, FEATURES | MRG_RXBUF | 1 << 22);
    harness.kill();
    let state = std::fs::File::from(harness.slot.state().try_clone().unwrap());
    std::os::unix::fs::FileExt::write_all_at(&state, &[0xff; 4096], 0).unwrap();
    harness.bring_up();
    // All modes are on at once, so nothing but promiscuous matters.
    harness.host.send(&frame(STRANGER, HOST, 5, 60)).unwrap();
    assert_eq!(harness.guest_gets(PATIENCE), Some(5));
    harness.send(6);
    assert_eq!(harness.host_sees(PATIENCE), Some(6));
}

#[test]
fn link_that_is_down_lets_nothing_through_and_pings_are_answered() {
    let mut harness = Harness::new("link", 1, FEATURES | MRG_RXBUF);
    let send = |harness: &Harness, message: ToBackend| {
        harness
            .living
            .as_ref()
            .unwrap()
            .0
            .control
            .send(&message)
            .unwrap();
    };
    let ping = |harness: &Harness, number| {
        send(harness, ToBackend::Ping(number));
        let health = &harness.living.as_ref().unwrap().0.health;
        let deadline = Instant::now() + PATIENCE;
        while health.queues[0].heartbeat.load(Relaxed) != number {
            assert!(Instant::now() < deadline, "the ping was not answered");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    send(&harness, ToBackend::Link(false));
    ping(&harness, 1);
    harness.send(1);
    harness.host.send(&frame(GUEST, HOST, 2, 60)).unwrap();
    assert_eq!(harness.guest_gets(MOMENT), None);
    assert_eq!(harness.host_sees(MOMENT), None);
    let drops = &harness.living.as_ref().unwrap().0.health.drops;
    assert!(drops.down.load(Relaxed) >= 2);
    send(&harness, ToBackend::Link(true));
    ping(&harness, 2);
    harness.send(3);
    assert_eq!(harness.host_sees(PATIENCE), Some(3));
}
