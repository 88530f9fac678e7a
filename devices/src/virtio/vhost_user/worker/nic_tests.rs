// SPDX-License-Identifier: Apache-2.0
//! A network card whose backend knows nothing but frames, and its cable.

use std::time::{Duration, Instant};

use vhost::vhost_user::message::FrontendReq;

use super::*;
use crate::virtio::device::{ActiveQueue, DeviceType, VirtioDevice};
use crate::virtio::features::{VERSION_1, VHOST_USER_PROTOCOL};
use crate::virtio::vhost_user::events::PeerFault;
use crate::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin};
use crate::virtio::vhost_user::testing::backend::{Backend, PROTOCOL};
use crate::virtio::vhost_user::testing::{Bench, spec};

const MRG_RXBUF: u64 = 1 << 15;
const MAC_AND_STATUS: u64 = 1 << 5 | 1 << 16;
const CONFIG_PROTOCOL: u64 = 1 << 9;
const MAC: [u8; 6] = [2, 3, 4, 5, 6, 7];

fn card(origin: Origin) -> Bench {
    Bench::with(DeviceSpec {
        device_type: DeviceType::NET,
        config: ConfigSource::Nic { mac: MAC },
        ..spec(origin)
    })
}

fn plain() -> Backend {
    Backend {
        features: VERSION_1 | VHOST_USER_PROTOCOL | MRG_RXBUF,
        protocol: PROTOCOL & !CONFIG_PROTOCOL,
        ..Backend::default()
    }
}

fn activate(bench: &Bench, features: u64) {
    let queues = [0, 1].map(|index| ActiveQueue {
        index: QueueIndex(index),
        layout: Bench::layout(index),
        events: Arc::clone(&bench.events[usize::from(index)]),
    });
    bench.device.activate(Activation {
        features,
        queues: queues.to_vec(),
        signals: Arc::clone(&bench.signals) as _,
    });
}

fn config(bench: &Bench) -> [u8; 12] {
    let mut space = [0; 12];
    bench.device.read_config(0, &mut space);
    space
}

/// Waits for the driver to be told so many times.
fn expect_config_changes(bench: &Bench, times: usize) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while *bench.signals.config_changes.lock().unwrap() != times {
        assert!(Instant::now() < deadline, "the driver is not told");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn backend_without_a_configuration_serves_a_card_with_our_address_and_acks_only_its_own_bits() {
    let bench = card(Origin::Foreign);
    let (_, backend) = bench.attach(plain());
    bench.expect_connected();
    assert_eq!(
        bench.device.features(),
        VERSION_1 | MRG_RXBUF | MAC_AND_STATUS
    );
    assert_eq!(config(&bench), [2, 3, 4, 5, 6, 7, 1, 0, 1, 0, 0, 0]);
    activate(&bench, bench.device.features());
    assert!(matches!(bench.report(), DeviceEvent::Running));
    let messages = backend.messages();
    let set = messages.iter().find(|m| m.is(FrontendReq::SET_FEATURES));
    let acked = set.map(|m| u64::from(m.word(0)) | u64::from(m.word(1)) << 32);
    assert_eq!(acked, Some(VERSION_1 | VHOST_USER_PROTOCOL | MRG_RXBUF));
}

#[test]
fn backend_with_a_configuration_is_asked_for_it() {
    for origin in [Origin::Own, Origin::Foreign] {
        let bench = card(origin);
        let _backend = bench.attach(Backend {
            features: plain().features | 1 << 5,
            config: vec![2, 9, 9, 9, 9, 9, 1, 0, 4, 0, 0xdc, 5],
            ..Backend::default()
        });
        bench.expect_connected();
        assert_eq!(config(&bench), [2, 9, 9, 9, 9, 9, 1, 0, 4, 0, 0xdc, 5]);
    }
}

#[test]
fn backend_of_ours_without_a_configuration_is_refused() {
    let bench = card(Origin::Own);
    let _backend = bench.attach(plain());
    let missing = CONFIG_PROTOCOL;
    assert!(matches!(
        bench.report(),
        DeviceEvent::Lost(fault) if fault == PeerFault::ProtocolFeatures { missing }
    ));
}

#[test]
fn cable_pulled_shows_in_the_status_and_stays_pulled_under_another_backend() {
    let bench = card(Origin::Foreign);
    let first = bench.attach(plain());
    bench.expect_connected();
    activate(&bench, bench.device.features());
    assert!(matches!(bench.report(), DeviceEvent::Running));
    bench.device.set_link(true);
    bench.device.set_link(false);
    expect_config_changes(&bench, 1);
    assert_eq!(config(&bench)[6], 0);
    drop(first);
    bench.device.fenced();
    let _second = bench.attach(plain());
    while !matches!(bench.report(), DeviceEvent::Running) {}
    assert_eq!(config(&bench)[6], 0);
    bench.device.set_link(true);
    expect_config_changes(&bench, 2);
    assert_eq!(config(&bench)[6], 1);
}
