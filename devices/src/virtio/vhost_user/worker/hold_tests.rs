// SPDX-License-Identifier: Apache-2.0
//! Queues that are held while the vmm is replaced, and a device that takes up what its driver was shown.

use std::time::Duration;

use super::*;
use crate::virtio::features::VHOST_USER_PROTOCOL;
use crate::virtio::vhost_user::events::PeerFault;
use crate::virtio::vhost_user::testing::Bench;
use crate::virtio::vhost_user::testing::backend::{Backend, FEATURES};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn queues_held_stay_stopped_under_any_backend_until_they_are_released() {
    let bench = Bench::new();
    bench.activate();
    let _old = bench.attach(Backend::default());
    bench.expect_running();

    bench.device.hold_queues();
    assert!(bench.device.wait_until_held(SOON));
    let _new = bench.attach(Backend::default());
    bench.expect_connected();
    bench.device.resume();
    bench.device.hold_queues();
    assert!(bench.device.wait_until_held(SOON));

    bench.device.release_queues();
    let report = bench.report();
    assert!(matches!(report, DeviceEvent::Running), "{report:?}");
}

#[test]
fn queues_of_a_backend_that_died_are_not_held() {
    let bench = Bench::new();
    bench.activate();
    let (control, _) = bench.attach(Backend::default());
    bench.expect_running();
    control.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(bench.report(), DeviceEvent::Lost(_)));

    bench.device.hold_queues();
    assert!(!bench.device.wait_until_held(Duration::from_millis(100)));
    // Once its I/O has ended, nothing uses them any more.
    bench.device.fenced();
    assert!(bench.device.wait_until_held(SOON));
}

/// A device that takes up the state of one that has run on a backend.
fn taken_up() -> Bench {
    let first = Bench::new();
    first.activate();
    let _old = first.attach(Backend::default());
    first.expect_running();
    first.device.hold_queues();
    assert!(first.device.wait_until_held(SOON));
    let state = serde_json::to_string(&first.device.save().unwrap()).unwrap();
    let next = Bench::new();
    next.device
        .restore(&serde_json::from_str(&state).unwrap())
        .unwrap();
    next.activate();
    next
}

#[test]
fn device_that_takes_up_a_driver_runs_when_it_is_released_and_interrupts_once_more() {
    let next = taken_up();
    let _new = next.attach(Backend::default());
    next.expect_connected();
    assert!(next.device.wait_until_connected(SOON) && next.device.wait_until_held(SOON));
    assert!(next.signals.interrupted.lock().unwrap().is_empty());

    next.device.release_queues();

    let report = next.report();
    assert!(matches!(report, DeviceEvent::Running), "{report:?}");
    assert_eq!(next.signals.interrupted.lock().unwrap().len(), 2);
}

#[test]
fn backend_that_lacks_what_the_driver_was_shown_does_not_fit_a_device_that_takes_it_up() {
    let next = taken_up();
    let _new = next.attach(Backend {
        features: (FEATURES & !0b10) | VHOST_USER_PROTOCOL,
        ..Backend::default()
    });
    assert!(matches!(
        next.report(),
        DeviceEvent::Lost(PeerFault::Features { missing: 0b10 })
    ));
    assert!(!next.device.wait_until_connected(Duration::ZERO));
}

#[test]
fn state_of_another_device_is_refused() {
    let bench = Bench::new();
    assert!(bench.device.save().is_none());
    let state = r#"{"features":1,"config":[1,2,3,4,5,6,7,8,9],"link_up":true,"selected":[0,0],"failed":false}"#;
    assert!(
        bench
            .device
            .restore(&serde_json::from_str(state).unwrap())
            .is_err()
    );
    assert!(bench.device.save().is_none());
}
