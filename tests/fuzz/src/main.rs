// SPDX-License-Identifier: Apache-2.0
//! One libFuzzer program for all targets; `BULKHEAD_FUZZ_TARGET` names the one to run. Started by
//! `cargo xtask fuzz`.
#![no_main]

use std::sync::OnceLock;

static TARGET: OnceLock<fuzz::Target> = OnceLock::new();

fn target() -> fuzz::Target {
    let name = std::env::var("BULKHEAD_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = fuzz::find(&name) else {
        let names: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!(
            "BULKHEAD_FUZZ_TARGET {name:?}: must be one of {}",
            names.join(", ")
        );
        std::process::exit(2);
    };
    target
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(target);
    (target.run)(data);
});
