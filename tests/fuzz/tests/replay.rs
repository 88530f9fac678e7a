// SPDX-License-Identifier: Apache-2.0
//! Every target over what is kept of it, and over inputs made of that.
#![allow(clippy::unwrap_used)] // a test outside cfg(test)

use fuzz::kept::{CORPUS, REGRESSIONS, directory, inputs};
use fuzz::mutate::{Random, mutate};

/// How many inputs are made for each target.
const MADE: u64 = 300;

fn replay(name: &str) {
    let target = fuzz::find(name).unwrap();
    let mut kept = inputs(&directory(REGRESSIONS, name)).unwrap();
    kept.extend(inputs(&directory(CORPUS, name)).unwrap());
    for (path, input) in &kept {
        // Seen when one of them panics.
        println!("{}", path.display());
        (target.run)(input);
    }
    assert!(!kept.is_empty(), "no input is kept for {name}");
    for seed in 0..MADE {
        let mut random = Random::new(seed);
        let (one, other) = (random.below(kept.len()), random.below(kept.len()));
        let input = mutate(&mut random, &kept[one].1, &kept[other].1);
        println!("seed {seed}: {input:02x?}");
        (target.run)(&input);
    }
}

macro_rules! replays {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(#[test] fn $test() { replay($name); })*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

replays! {
    blk_survives_its_inputs: "blk",
    control_survives_its_inputs: "control",
    dialect_survives_its_inputs: "dialect",
    guard_survives_its_inputs: "guard",
    http_survives_its_inputs: "http",
    inflight_survives_its_inputs: "inflight",
    input_survives_its_inputs: "input",
    ioapic_survives_its_inputs: "ioapic",
    kernel_survives_its_inputs: "kernel",
    machine_survives_its_inputs: "machine",
    msix_survives_its_inputs: "msix",
    net_survives_its_inputs: "net",
    pci_survives_its_inputs: "pci",
    plic_survives_its_inputs: "plic",
    record_survives_its_inputs: "record",
    spec_survives_its_inputs: "spec",
    state_survives_its_inputs: "state",
    supervisor_survives_its_inputs: "supervisor",
    transport_survives_its_inputs: "transport",
    vhost_user_survives_its_inputs: "vhost-user",
}
