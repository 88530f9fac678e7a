// SPDX-License-Identifier: Apache-2.0
//! Backends that are none for the device, or do what no backend does: they cost only themselves.

use std::io::Write;

use vhost::vhost_user::message::FrontendReq;

use super::*;
use crate::virtio::features::{VERSION_1, VHOST_USER_PROTOCOL};
use crate::virtio::vhost_user::events::PeerFault;
use crate::virtio::vhost_user::spec::Origin;
use crate::virtio::vhost_user::testing::backend::{
    ALL, Backend, FEATURES, Mischief, PROTOCOL, values,
};
use crate::virtio::vhost_user::testing::{Bench, lost, spec};

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

/// The whole of a life against a backend that does one thing wrong at one message: always a report
/// before the test's deadline ends, and the next backend works.
fn survives(at: usize, mischief: Mischief) {
    let bench = Bench::new();
    bench.activate();
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
    for at in 0..20 {
        bench.attach(Backend::bad(at, Mischief::HangUp));
        while !matches!(bench.report(), DeviceEvent::Lost(_)) {}
    }
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
