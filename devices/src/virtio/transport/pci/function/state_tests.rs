// SPDX-License-Identifier: Apache-2.0
//! A function whose state another one takes over: its driver notices nothing.

use std::sync::Arc;

use super::*;
use crate::testing::{BASE, FakeDevice, OFFERED, windows};
use crate::virtio::transport::pci::testing::{Guest, Random};

/// The state as it is kept: in a file, or on its way to another process.
fn kept(guest: &Guest) -> FunctionState {
    let text = serde_json::to_string(&guest.function.save()).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// All that a driver can read without an effect: configuration space, the common configuration, the
/// MSI-X table and the pending bits.
fn view(guest: &Guest) -> Vec<u64> {
    let config = (0..64).map(|i| {
        let word = guest.config_read(4 * i, 4);
        u64::from(u32::from_le_bytes(word.try_into().unwrap()))
    });
    let registers = (0..0x38).step_by(4).chain((0x8000..0x8030).step_by(4));
    let registers = registers.map(|at| guest.read(at, 4));
    config.chain(registers).chain([guest.pending()]).collect()
}

fn taken_over(from: &Guest) -> Guest {
    let guest = Guest::on(
        &Arc::default(),
        &mut windows(),
        BASE,
        Arc::new(FakeDevice::default()),
    );
    guest.function.restore(&kept(from)).unwrap();
    guest
}

#[test]
fn running_driver_finds_everything_as_it_was_and_its_device_runs() {
    let guest = Guest::running();
    guest.mask(2, true);
    guest.call(1);

    let next = taken_over(&guest);

    assert_eq!(view(&next), view(&guest));
    assert_eq!(next.wires.doorbells(), guest.wires.doorbells());
    assert_eq!(next.wires.assigned(), guest.wires.assigned());
    let layouts = |guest: &Guest| {
        let layouts = guest
            .device
            .active(|a| a.queues.iter().map(|q| q.layout).collect::<Vec<_>>());
        layouts.unwrap()
    };
    assert_eq!(layouts(&next), layouts(&guest));
    // The interrupt that was pending while its vector was masked comes when it is not.
    assert!(next.wires.take_sent().is_empty());
    next.mask(2, false);
    assert_eq!(next.wires.take_sent().len(), 1);
}

#[test]
fn driver_in_the_middle_of_anything_finds_what_it_wrote() {
    for seed in 1..200 {
        let (guest, mut random) = (Guest::fresh(), Random(seed));
        if seed % 2 == 0 {
            guest.enable();
            guest.negotiate(OFFERED);
        }
        for _ in 0..random.below(60) {
            let value = random.next().to_le_bytes();
            let len = [1, 2, 4, 8][usize::try_from(random.below(4)).unwrap()];
            match random.below(4) {
                0 => {
                    let at = usize::try_from(4 * random.below(20)).unwrap();
                    guest.config_write(at, &value[..len.min(4)]);
                }
                1 => guest.write(0x8000 + 4 * random.below(12), &value[..len]),
                // The status, but no reset, which ends when it is read.
                2 => guest.write(20, &[value[0] | 1]),
                _ => guest.write(random.below(10) * 2, &value[..len]),
            }
        }

        let next = taken_over(&guest);

        assert_eq!(next.function.save(), guest.function.save(), "seed {seed}");
        // A device that may not access memory at the moment starts when it may.
        let may = guest.config_read(4, 1)[0] & 4 != 0;
        let runs = |guest: &Guest| guest.device.active(|_| ()).is_some();
        assert_eq!(runs(&next), runs(&guest) && may, "seed {seed}");
    }
}

#[test]
fn reset_that_had_begun_is_over_when_the_driver_looks() {
    let guest = Guest::running();
    guest
        .device
        .drains_slowly
        .store(true, std::sync::atomic::Ordering::SeqCst);
    guest.write8(20, 0);
    assert_ne!(guest.status(), 0);

    let next = taken_over(&guest);

    assert_eq!(next.status(), 0);
    assert!(next.device.active(|_| ()).is_none());
}

#[test]
fn state_that_is_impossible_is_refused_and_changes_nothing() {
    let state = serde_json::to_value(kept(&Guest::running())).unwrap();
    let fresh = Guest::fresh();
    let before = fresh.function.save();
    for (path, value) in [
        ("/config", serde_json::json!([0, 1])),
        ("/registers/common/queues", serde_json::json!([])),
        (
            "/registers/common/queues/0/descriptors",
            serde_json::json!(3),
        ),
        ("/registers/common/queues/1/size", serde_json::json!(1000)),
        (
            "/registers/common/driver_features",
            serde_json::json!(u64::MAX),
        ),
        ("/registers/msix", serde_json::json!([])),
    ] {
        let mut bad = state.clone();
        *bad.pointer_mut(path).unwrap() = value;
        let bad: FunctionState = serde_json::from_value(bad).unwrap();
        assert!(fresh.function.restore(&bad).is_err(), "{path}");
        assert_eq!(fresh.function.save(), before, "{path}");
        assert!(fresh.device.active(|_| ()).is_none(), "{path}");
    }
}
