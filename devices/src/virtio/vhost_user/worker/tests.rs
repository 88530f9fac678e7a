// SPDX-License-Identifier: Apache-2.0

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use vhost::vhost_user::message::FrontendReq;
use vm_memory::GuestAddress;

use super::*;
use crate::virtio::device::VirtioDevice;
use crate::virtio::features::{VERSION_1, VHOST_USER_PROTOCOL};
use crate::virtio::queue::QueueLayout;
use crate::virtio::vhost_user::events::{GuestFault, PeerFault};
use crate::virtio::vhost_user::spec::Origin;
use crate::virtio::vhost_user::testing::backend::{
    ALL, Backend, CONFIG, FEATURES, Message, Mischief, PROTOCOL,
};
use crate::virtio::vhost_user::testing::{Bench, MEMORY_BASE, spec};

/// The messages of a code, as their second word: the value told for each queue.
fn values(messages: &[Message], code: FrontendReq) -> Vec<u32> {
    let of_code = messages.iter().filter(|message| message.is(code));
    of_code.map(|message| message.word(1)).collect()
}

fn lost(event: DeviceEvent) -> PeerFault {
    match event {
        DeviceEvent::Lost(fault) => fault,
        other => panic!("{other:?}"),
    }
}

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
fn backend_that_stopped_at_an_impossible_index_is_dropped() {
    let bench = Bench::new();
    bench.activate();
    bench.attach(Backend {
        base: 0x1_0000,
        ..Backend::default()
    });
    bench.expect_running();
    bench.device.drain();
    assert_eq!(lost(bench.report()), PeerFault::Base(QueueIndex(0)));
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
fn foreign_backend_that_leaves_requests_unfinished_is_dropped() {
    let bench = Bench::with(spec(Origin::Foreign));
    bench.activate();
    bench.attach(Backend {
        base: 1,
        ..Backend::default()
    });
    bench.expect_running();
    bench.device.drain();
    assert_eq!(lost(bench.report()), PeerFault::Unfinished(QueueIndex(0)));
}

#[test]
fn reset_stops_the_queues_clears_the_inflight_region_and_ends() {
    let bench = Bench::new();
    bench.activate();
    let (_, backend) = bench.attach(Backend::default());
    bench.expect_running();
    bench.inflight.write_all_at(&[0xff; 8192], 0).unwrap();
    bench.device.begin_reset();
    bench.reset_ends();
    let mut region = vec![0xff; 8192];
    bench.inflight.read_exact_at(&mut region, 0).unwrap();
    assert!(region.iter().all(|byte| *byte == 0));
    assert_eq!(
        values(&backend.messages(), FrontendReq::GET_VRING_BASE).len(),
        2
    );
    // And the next life begins at zero on the same backend.
    bench.activate();
    assert!(matches!(bench.report(), DeviceEvent::Running));
    let messages = backend.messages();
    assert_eq!(values(&messages, FrontendReq::SET_VRING_BASE), [0; 4]);
    assert!(bench.signals.interrupted.lock().unwrap().is_empty());
}

#[test]
fn reset_with_the_backend_dead_waits_until_it_is_fenced() {
    for successor in [false, true] {
        let bench = Bench::new();
        bench.activate();
        let (control, _) = bench.attach(Backend::default());
        bench.expect_running();
        control.shutdown(std::net::Shutdown::Both).unwrap();
        lost(bench.report());
        bench.device.begin_reset();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!bench.device.reset_done());
        if successor {
            bench.attach(Backend::default());
        } else {
            bench.device.fenced();
        }
        bench.reset_ends();
    }
}

#[test]
fn reset_with_a_foreign_backend_dead_or_deaf_ends_all_the_same() {
    let started = |backend: Backend| {
        let bench = Bench::with(spec(Origin::Foreign));
        bench.activate();
        let (control, backend) = bench.attach(backend);
        bench.expect_running();
        (bench, control, backend)
    };
    let (bench, control, backend) = started(Backend::default());
    control.shutdown(std::net::Shutdown::Both).unwrap();
    lost(bench.report());
    bench.device.begin_reset();
    bench.reset_ends();

    // Deaf to what comes after the start.
    let messages = backend.messages().len();
    let (bench, _, _) = started(Backend::bad(messages, Mischief::Silent));
    bench.device.begin_reset();
    bench.reset_ends();
}

#[test]
fn reset_of_queues_that_never_ran_ends_without_a_backend() {
    let bench = Bench::new();
    bench.activate();
    bench.device.begin_reset();
    bench.reset_ends();
}

#[test]
fn successor_without_what_the_driver_relies_on_is_refused() {
    let bench = Bench::new();
    bench.activate();
    bench.attach(Backend::default());
    bench.expect_running();
    let lesser = Backend {
        features: VERSION_1 | VHOST_USER_PROTOCOL,
        ..Backend::default()
    };
    let missing = FEATURES & !VERSION_1;
    bench.attach(lesser);
    assert_eq!(lost(bench.report()), PeerFault::Features { missing });
    let other = Backend {
        config: vec![9; 8],
        ..Backend::default()
    };
    bench.attach(other);
    assert_eq!(lost(bench.report()), PeerFault::Config);
    bench.attach(Backend::default());
    bench.expect_running();
}

#[test]
fn backend_that_is_none_for_this_device_is_refused() {
    let refused = |backend| {
        let bench = Bench::new();
        bench.attach(backend);
        lost(bench.report())
    };
    let good = Backend::default;
    let features = VERSION_1;
    let no_protocol = refused(Backend { features, ..good() });
    let missing = VHOST_USER_PROTOCOL;
    assert_eq!(no_protocol, PeerFault::Features { missing });
    let features = VHOST_USER_PROTOCOL;
    let legacy = refused(Backend { features, ..good() });
    let missing = VERSION_1;
    assert_eq!(legacy, PeerFault::Features { missing });
    let protocol = PROTOCOL & !(1 << 3);
    let missing = 1 << 3;
    let silent = refused(Backend { protocol, ..good() });
    assert_eq!(silent, PeerFault::ProtocolFeatures { missing });
    let small = refused(Backend {
        queues: 1,
        ..good()
    });
    assert_eq!(small, PeerFault::Queues(1));
}

/// The whole of a life against a backend that does one thing wrong at one message: always a report,
/// in time, and the next backend works.
fn survives(at: usize, mischief: Mischief) {
    let bench = Bench::new();
    bench.activate();
    let begun = Instant::now();
    bench.attach(Backend::bad(at, mischief));
    let mut report = bench.report();
    let mut drained = false;
    while !matches!(report, DeviceEvent::Lost(_)) {
        if matches!(report, DeviceEvent::Running) && !drained {
            drained = true;
            bench.device.drain();
        }
        // Some mischief is none: a refusal where the answer may be anything, or no answer where
        // none is due.
        if matches!(report, DeviceEvent::Drained) {
            return;
        }
        report = bench.report();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{mischief:?} at {at}"
    );
    bench.attach(Backend::default());
    bench.expect_running();
}

#[test]
fn backend_that_misbehaves_at_any_message_costs_only_itself() {
    std::thread::scope(|scope| {
        for mischief in ALL {
            scope.spawn(move || (0..24).for_each(|at| survives(at, mischief)));
        }
    });
}

/// A handshake has 20 messages. Each backend in a row dies one message later than the one before.
#[test]
fn backends_dying_at_every_message_of_a_reconnect_are_succeeded() {
    let bench = Bench::new();
    bench.activate();
    let (control, _) = bench.attach(Backend::default());
    bench.expect_running();
    bench.set_used(0, 77);
    control.shutdown(std::net::Shutdown::Both).unwrap();
    lost(bench.report());
    let begun = Instant::now();
    for at in 0..20 {
        bench.attach(Backend::bad(at, Mischief::HangUp));
        while !matches!(bench.report(), DeviceEvent::Lost(_)) {}
    }
    assert!(begun.elapsed() < Duration::from_secs(10));
    let (_, backend) = bench.attach(Backend::default());
    bench.expect_running();
    let messages = backend.messages();
    assert_eq!(messages.len(), 20, "the handshake has grown");
    assert_eq!(values(&messages, FrontendReq::SET_VRING_BASE), [77, 0]);
}

#[test]
fn backend_faults_are_told_apart() {
    let fault = |at, mischief| {
        let bench = Bench::new();
        bench.attach(Backend::bad(at, mischief));
        lost(bench.report())
    };
    let request = FrontendReq::GET_FEATURES;
    let timeout = spec(Origin::Own).timeouts.connect;
    assert_eq!(fault(1, Mischief::HangUp), PeerFault::Closed);
    assert_eq!(
        fault(1, Mischief::Silent),
        PeerFault::Silent { request, timeout }
    );
    assert_eq!(
        fault(1, Mischief::Descriptors),
        PeerFault::Descriptors(request)
    );
    for mischief in [
        Mischief::WrongCode,
        Mischief::WrongVersion,
        Mischief::NotAReply,
        Mischief::TooLong,
        Mischief::TooShort,
        Mischief::Endless,
    ] {
        assert_eq!(fault(1, mischief), PeerFault::Malformed(request));
    }
}

#[test]
fn backend_that_speaks_unasked_is_dropped() {
    let bench = Bench::new();
    bench.activate();
    let (mut control, _backend) = bench.attach(Backend::default());
    bench.expect_running();
    control.write_all(&[0; 12]).unwrap();
    assert_eq!(lost(bench.report()), PeerFault::Unasked);
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
fn descriptors_attached_to_answers_do_not_pile_up() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let bench = Bench::new();
    bench.attach(Backend::default());
    bench.expect_connected();
    let before = open();
    for _ in 0..50 {
        let (_, backend) = bench.attach(Backend::bad(1, Mischief::Descriptors));
        lost(bench.report());
        backend.join();
    }
    // Other tests run in this process meanwhile: far fewer than the 50 × 200 that were sent.
    assert!(open() < before + 2000);
}

#[test]
fn queue_outside_memory_is_the_guest_s_fault() {
    let bench = Bench::new();
    let outside = QueueLayout::new(
        64,
        GuestAddress(MEMORY_BASE),
        GuestAddress(MEMORY_BASE + 0x1000),
        GuestAddress(MEMORY_BASE + (1 << 20) - 256),
    );
    bench.activate_at([Bench::layout(0), outside.unwrap()]);
    bench.attach(Backend::default());
    bench.expect_connected();
    let report = bench.report();
    let fault = GuestFault::QueueOutsideMemory(QueueIndex(1));
    assert!(
        matches!(report, DeviceEvent::Guest(f) if f == fault),
        "{report:?}"
    );
    bench.device.begin_reset();
    bench.reset_ends();
    assert_eq!(*bench.signals.needs_reset.lock().unwrap(), 1);
    bench.activate();
    assert!(matches!(bench.report(), DeviceEvent::Running));
}

#[test]
fn device_given_up_needs_a_reset_and_works_after_it() {
    let bench = Bench::new();
    bench.activate();
    bench.attach(Backend::default());
    bench.expect_running();
    bench.device.give_up();
    bench.device.begin_reset();
    bench.reset_ends();
    assert_eq!(*bench.signals.needs_reset.lock().unwrap(), 1);
    bench.activate();
    assert!(matches!(bench.report(), DeviceEvent::Running));
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
