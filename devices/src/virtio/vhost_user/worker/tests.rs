// SPDX-License-Identifier: Apache-2.0
//! The life of a device: its first backend, those that follow, and draining.

use std::time::Duration;

use vhost::vhost_user::message::FrontendReq;

use super::*;
use crate::virtio::device::VirtioDevice;
use crate::virtio::features::VHOST_USER_PROTOCOL;
use crate::virtio::vhost_user::events::PeerFault;
use crate::virtio::vhost_user::spec::Origin;
use crate::virtio::vhost_user::testing::backend::{
    Backend, CONFIG, FEATURES, Mischief, PROTOCOL, values,
};
use crate::virtio::vhost_user::testing::{Bench, MEMORY_BASE, lost, spec};

#[test]
fn first_backend_shows_features_and_config() {
    let bench = Bench::new();
    let mut config = [0xaa; 10];
    assert_eq!(bench.device.features(), 0);
    assert!(!bench.device.wait_until_connected(Duration::ZERO));
    bench.attach(Backend::default());
    assert!(bench.device.wait_until_connected(Duration::from_secs(5)));
    assert_eq!(bench.device.features(), FEATURES);
    bench.device.read_config(0, &mut config);
    assert_eq!((&config[..8], &config[8..]), (&CONFIG[..], &[0, 0][..]));
}

#[test]
fn activation_tells_everything_in_the_order_that_works() {
    let bench = Bench::new();
    bench.set_used(1, 7);
    let (_, backend) = bench.attach(Backend::default());
    bench.expect_connected();
    bench.activate();
    assert!(matches!(bench.report(), DeviceEvent::Running));
    let messages = backend.messages();
    let codes: Vec<u32> = messages.iter().map(|message| message.code).collect();
    // owner, features, protocol features, queue number, config; features, memory; for each queue
    // num, addr, base, call, kick; enable.
    let expected = [
        3, 1, 15, 16, 17, 24, 2, 5, 8, 9, 10, 13, 12, 8, 9, 10, 13, 12, 18, 18,
    ];
    assert_eq!(codes, expected);
    assert_eq!(
        messages[6].body,
        (FEATURES | VHOST_USER_PROTOCOL).to_ne_bytes()
    );
    let table = &messages[7];
    let region = [MEMORY_BASE, 1 << 20, MEMORY_BASE, 0].map(u64::to_ne_bytes);
    assert_eq!((table.word(0), &table.body[8..]), (1, &region.concat()[..]));
    assert!(table.with_fd && messages[11].with_fd && messages[12].with_fd);
    assert_eq!(values(&messages, FrontendReq::SET_VRING_NUM), [64, 64]);
    assert_eq!(values(&messages, FrontendReq::SET_VRING_BASE), [0, 7]);
    assert_eq!(values(&messages, FrontendReq::SET_VRING_ENABLE), [1, 1]);
    let addresses = [MEMORY_BASE, MEMORY_BASE + 0x2000, MEMORY_BASE + 0x1000];
    assert_eq!(
        messages[9].body[8..32],
        addresses.map(u64::to_ne_bytes).concat()
    );
    // Every change asks for an answer.
    assert!(messages[6..].iter().all(|message| message.flags == 1 | 8));
}

#[test]
fn foreign_backend_that_can_is_told_where_to_note_what_it_has_in_progress() {
    let tracks = 1 << 12;
    let told = |origin, protocol| {
        let bench = Bench::with(spec(origin));
        bench.activate();
        let (_, backend) = bench.attach(Backend {
            protocol,
            ..Backend::default()
        });
        bench.expect_running();
        let messages = backend.messages();
        let mut told = messages
            .into_iter()
            .filter(|message| message.is(FrontendReq::SET_INFLIGHT_FD));
        told.next()
    };
    let message = told(Origin::Foreign, PROTOCOL | tracks).unwrap();
    let (len_bytes, offset) = (8192_u64.to_ne_bytes(), 0_u64.to_ne_bytes());
    let (queues, size) = (2_u16.to_ne_bytes(), 64_u16.to_ne_bytes());
    let body = [&len_bytes[..], &offset, &queues, &size].concat();
    assert_eq!((&message.body[..20], message.with_fd), (&body[..], true));
    assert_eq!(told(Origin::Foreign, PROTOCOL), None, "it cannot");
    assert_eq!(
        told(Origin::Own, PROTOCOL | tracks),
        None,
        "ours has it already"
    );
}

#[test]
fn activation_without_backend_waits_for_one() {
    let bench = Bench::new();
    bench.activate();
    bench.attach(Backend::default());
    bench.expect_running();
    assert!(bench.signals.interrupted.lock().unwrap().is_empty());
}

#[test]
fn backend_that_dies_is_succeeded_at_the_used_index_with_every_queue_interrupted() {
    let bench = Bench::new();
    bench.activate();
    let (control, _backend) = bench.attach(Backend::default());
    bench.expect_running();
    bench.set_used(0, 0x1234);
    control.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(lost(bench.report()), PeerFault::Closed);
    let (_, backend) = bench.attach(Backend::default());
    bench.expect_running();
    let messages = backend.messages();
    assert_eq!(values(&messages, FrontendReq::SET_VRING_BASE), [0x1234, 0]);
    let interrupted = bench.signals.interrupted.lock().unwrap();
    assert_eq!(*interrupted, [QueueIndex(0), QueueIndex(1)]);
    // The vmm writes no eventfd that a backend of ours shares.
    assert!(!eventfd::is_readable(&bench.events[0].kick));
}

#[test]
fn backend_drained_is_succeeded_where_it_stopped() {
    let bench = Bench::new();
    bench.activate();
    bench.set_used(0, 40);
    bench.set_used(1, 40);
    let (_, old) = bench.attach(Backend {
        base: 42,
        ..Backend::default()
    });
    bench.expect_running();
    bench.device.drain();
    assert!(matches!(bench.report(), DeviceEvent::Drained));
    let stopped = values(&old.messages(), FrontendReq::SET_VRING_ENABLE);
    assert_eq!(stopped, [1, 1, 0, 0]);
    let (_, new) = bench.attach(Backend::default());
    bench.expect_running();
    let messages = new.messages();
    assert_eq!(values(&messages, FrontendReq::SET_VRING_BASE), [42, 42]);
}

#[test]
fn backend_drained_can_go_on() {
    let bench = Bench::new();
    bench.activate();
    let (_, backend) = bench.attach(Backend {
        base: 3,
        ..Backend::default()
    });
    bench.expect_running();
    bench.device.drain();
    assert!(matches!(bench.report(), DeviceEvent::Drained));
    bench.device.resume();
    assert!(matches!(bench.report(), DeviceEvent::Running));
    let messages = backend.messages();
    assert_eq!(values(&messages, FrontendReq::SET_VRING_BASE), [0, 0, 3, 3]);
    assert_eq!(values(&messages, FrontendReq::SET_MEM_TABLE).len(), 1);
}

#[test]
fn foreign_backend_is_drained_when_everything_fetched_was_used() {
    let bench = Bench::with(spec(Origin::Foreign));
    bench.activate();
    bench.attach(Backend {
        base: 5,
        ..Backend::default()
    });
    bench.expect_running();
    bench.set_used(0, 3);
    bench.set_used(1, 5);
    bench.device.begin_reset();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!bench.device.reset_done());
    bench.set_used(0, 5);
    bench.reset_ends();
}

#[test]
fn backend_attached_while_another_is_waited_for_is_taken_at_once() {
    let mut slow = spec(Origin::Own);
    slow.timeouts.connect = Duration::from_secs(60);
    let bench = Bench::with(slow);
    bench.activate();
    let (_, silent) = bench.attach(Backend::bad(1, Mischief::Silent));
    while silent.messages().len() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    bench.attach(Backend::default());
    bench.expect_running();
}

#[test]
fn foreign_backend_without_acknowledgements_works_and_is_kicked() {
    let bench = Bench::with(spec(Origin::Foreign));
    bench.activate();
    let plain = Backend {
        protocol: PROTOCOL & !(1 << 3),
        ..Backend::default()
    };
    let (control, _backend) = bench.attach(plain.clone());
    bench.expect_running();
    assert!(eventfd::drain(&bench.events[0].kick) && eventfd::drain(&bench.events[1].kick));
    control.shutdown(std::net::Shutdown::Both).unwrap();
    lost(bench.report());
    let (_, backend) = bench.attach(plain);
    bench.expect_running();
    for index in [0, 1] {
        assert!(eventfd::is_readable(&bench.events[index as usize].kick));
        assert!(backend.kicks.lock().unwrap().contains_key(&index));
    }
}

#[test]
fn notification_by_the_slow_way_makes_the_backend_look() {
    let bench = Bench::new();
    bench.activate();
    let (_, backend) = bench.attach(Backend::default());
    bench.expect_running();
    bench.device.notify(QueueIndex(1));
    bench.device.drain();
    assert!(matches!(bench.report(), DeviceEvent::Drained));
    let messages = backend.messages();
    let enabled = messages
        .iter()
        .filter(|m| m.is(FrontendReq::SET_VRING_ENABLE));
    assert!(enabled.count() >= 4);
}

#[test]
fn device_dropped_ends_its_thread() {
    let bench = Bench::new();
    let (_, backend) = bench.attach(Backend::default());
    bench.expect_connected();
    drop(bench);
    backend.join();
}
