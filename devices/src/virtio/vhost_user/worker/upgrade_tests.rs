// SPDX-License-Identifier: Apache-2.0
//! A backend that serves is succeeded by one that was judged meanwhile; and what is told of queues
//! that wait.

use vhost::vhost_user::message::FrontendReq;

use super::*;
use crate::virtio::device::DeviceType;
use crate::virtio::features::VHOST_USER_PROTOCOL;
use crate::virtio::vhost_user::events::PeerFault;
use crate::virtio::vhost_user::events::{HostFault, Incompatible, Outstanding};
use crate::virtio::vhost_user::spec::{DeviceSpec, Origin};
use crate::virtio::vhost_user::testing::backend::{
    ALL, Backend, FEATURES, Mischief, PROTOCOL, values,
};
use crate::virtio::vhost_user::testing::{Bench, spec};

/// A device that runs on its first backend.
fn running() -> (Bench, impl Sized) {
    let bench = Bench::new();
    bench.activate();
    let old = bench.attach(Backend {
        base: 42,
        ..Backend::default()
    });
    bench.expect_running();
    (bench, old)
}

#[test]
fn backend_judged_fit_takes_over_where_the_old_one_stopped() {
    let (bench, _old) = running();
    let (_, new) = bench.probe(Backend::default());
    assert!(matches!(bench.report(), DeviceEvent::Compatible));
    bench.device.drain();
    assert!(matches!(bench.report(), DeviceEvent::Drained));
    bench.device.switch();
    bench.expect_running();
    assert_eq!(
        values(&new.messages(), FrontendReq::SET_VRING_BASE),
        [42, 42]
    );
}

#[test]
fn backend_judged_unfit_changes_nothing() {
    let (bench, _old) = running();
    let lacking = Backend {
        features: (FEATURES & !0b10) | VHOST_USER_PROTOCOL,
        ..Backend::default()
    };
    let _new = bench.probe(lacking);
    let missing = 0b10;
    assert!(matches!(
        bench.report(),
        DeviceEvent::Incompatible(Incompatible::Peer(fault)) if fault == PeerFault::Features { missing }
    ));
    // The old one still answers.
    bench.device.drain();
    assert!(matches!(bench.report(), DeviceEvent::Drained));
    bench.device.resume();
    assert!(matches!(bench.report(), DeviceEvent::Running));
}

#[test]
fn backend_that_misbehaves_while_it_is_judged_is_unfit() {
    let (bench, _old) = running();
    for mischief in ALL {
        let harmless = [Mischief::Twice, Mischief::Refuse];
        if harmless.contains(&mischief) {
            continue;
        }
        let _new = bench.probe(Backend {
            mischief: Some((5, mischief)),
            ..Backend::default()
        });
        let report = bench.report();
        assert!(
            matches!(report, DeviceEvent::Incompatible(_)),
            "{mischief:?}"
        );
    }
}

#[test]
fn backend_judged_that_died_before_its_turn_is_lost_and_another_one_serves() {
    let (bench, _old) = running();
    let (_, new) = bench.probe(Backend::default());
    assert!(matches!(bench.report(), DeviceEvent::Compatible));
    bench.device.drain();
    assert!(matches!(bench.report(), DeviceEvent::Drained));
    drop(new);
    bench.device.fenced();
    bench.device.switch();
    let _third = bench.attach(Backend::default());
    loop {
        match bench.report() {
            DeviceEvent::Running => break,
            DeviceEvent::Connected | DeviceEvent::Lost(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn requests_that_wait_are_told_of_and_the_end_of_the_wait_is() {
    let (bench, _old) = running();
    bench.set_avail(0, 3);
    let DeviceEvent::Outstanding(found) = bench.any_report() else {
        panic!("nothing is told");
    };
    let sample = Outstanding {
        queue: QueueIndex(0),
        avail: 3,
        used: 0,
    };
    assert_eq!(found, [sample]);
    bench.set_used(0, 3);
    assert!(matches!(
        bench.any_report(),
        DeviceEvent::Outstanding(none) if none.is_empty()
    ));
}

#[test]
fn interrupts_that_were_not_routed_are_tried_again_while_the_queues_run() {
    let (bench, _old) = running();
    while *bench.signals.retries.lock().unwrap() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A device of another program that runs on a backend, which then goes with a request outstanding.
fn abandoned(spec: DeviceSpec, protocol: u64) -> (Bench, impl Sized) {
    let bench = Bench::with(spec);
    bench.activate();
    let backend = || Backend {
        protocol: PROTOCOL | protocol,
        ..Backend::default()
    };
    let (control, _) = bench.attach(backend());
    bench.expect_running();
    bench.set_avail(0, 1);
    control.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(bench.report(), DeviceEvent::Lost(_)));
    let next = bench.attach(backend());
    bench.expect_connected();
    (bench, next)
}

/// VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD
const INFLIGHT: u64 = 1 << 12;

#[test]
fn foreign_disk_that_kept_no_record_asks_for_a_reset() {
    let (bench, _next) = abandoned(spec(Origin::Foreign), 0);
    let report = bench.report();
    assert!(
        matches!(report, DeviceEvent::Failed(HostFault::Forgotten(queue)) if queue == QueueIndex(0))
    );
}

#[test]
fn foreign_disk_that_kept_a_record_goes_on() {
    let (bench, _next) = abandoned(spec(Origin::Foreign), INFLIGHT);
    assert!(matches!(bench.report(), DeviceEvent::Running));
}

#[test]
fn foreign_device_that_works_in_order_goes_on() {
    let device_type = DeviceType::NET;
    let spec = DeviceSpec {
        device_type,
        ..spec(Origin::Foreign)
    };
    let (bench, _next) = abandoned(spec, 0);
    assert!(matches!(bench.report(), DeviceEvent::Running));
}
