// SPDX-License-Identifier: Apache-2.0
//! A tap that is full, because the host's network behind it is slow: the guest's frames wait, nobody
//! spins, and no frame is lost or sent twice.

use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use ipc::health::BACKPRESSURED;
use loadgen::cpu;
use loadgen::net::host::{Interface, limit_tap};

use crate::harness::{FEATURES, GUEST, HOST, MRG_RXBUF, PATIENCE, TAP, frame};
use crate::supervised::Harness;

/// What a tap has under way at most; a few frames.
const UNDER_WAY_BYTES: i32 = 16 << 10;
const FRAME_BYTES: usize = 1000;
/// Several times what the queue and the tap hold.
const FRAMES: u32 = 300;
/// So many frames at most are on their way, fewer than the socket that sees them has room for.
const AHEAD: u32 = 60;
/// How long the tap is looked at while it is full.
const FULL: Duration = Duration::from_millis(500);

fn run(command: &str) {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let output = Command::new(program).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
}

/// Frames of the guest leave the host on a line of this rate, from which they are seen.
fn slow_line(harness: &mut Harness, rate: &str) {
    for command in [
        "ip link add near type veth peer name far",
        "ip link add br0 type bridge",
        "ip link set near master br0 up",
        &format!("ip link set {TAP} master br0 up"),
        "ip link set far up",
        "ip link set br0 up",
        &format!("tc qdisc add dev near root tbf rate {rate} burst 2kb limit 1mb"),
    ] {
        run(command);
    }
    harness.host = Interface::of("far").unwrap().packets(false).unwrap();
    // The bridge learns where the host is; what it does not know it floods, copied.
    harness.host.send(&frame(GUEST, HOST, 0, 60)).unwrap();
    assert_eq!(harness.guest_gets(PATIENCE), Some(0));
}

#[test]
fn frames_for_a_full_tap_wait_without_work_and_all_arrive_once() {
    let mut harness = Harness::new("full", 1, FEATURES | MRG_RXBUF);
    limit_tap(&harness.slot.taps()[0], UNDER_WAY_BYTES).unwrap();
    slow_line(&mut harness, "80kbit");

    let mut sent = 0;
    while harness.try_send(sent, FRAME_BYTES) {
        sent += 1;
    }
    let generation = &harness.living.as_ref().unwrap().0;
    let deadline = Instant::now() + PATIENCE;
    while generation.health.queues[1].flags.load(Relaxed) & BACKPRESSURED == 0 {
        assert!(Instant::now() < deadline, "the tap is not full");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = generation.pid();
    let (began, before) = (Instant::now(), cpu::of_process(pid));
    std::thread::sleep(FULL);
    let (elapsed, worked) = (began.elapsed(), cpu::of_process(pid) - before);
    assert!(worked * 4 < elapsed, "worked {worked:?} of {elapsed:?}");
    harness.transmit[0].reap().unwrap();
    assert!(harness.transmit[0].ring.outstanding() > 0, "nothing waits");

    run("tc qdisc change dev near root tbf rate 1gbit burst 100kb limit 1mb");
    for number in 0..FRAMES {
        while sent < FRAMES.min(number + AHEAD) && harness.try_send(sent, FRAME_BYTES) {
            sent += 1;
        }
        assert_eq!(harness.host_sees(PATIENCE), Some(number));
    }
}
