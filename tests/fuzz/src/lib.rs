// SPDX-License-Identifier: Apache-2.0
//! Fuzz targets: every place where bytes of a guest, a backend, a client or a file are read. A target
//! is a function over any bytes; it finds something by panicking. For `supervisor` they are what happens
//! to a VM.
//!
//! `cargo xtask fuzz` runs them under libFuzzer with AddressSanitizer. A plain `cargo test` replays
//! what is kept of earlier runs: `corpus/` reaches the code that there is, `regressions/` once found
//! something. What a target's bytes mean may change with the target; regressions of importance are
//! tests of their own, too, next to what they were found in.
#![allow(clippy::unwrap_used)] // a target says by panicking that something is wrong

pub mod kept;
mod leaves;
pub mod mutate;
mod script;
mod targets;

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its directories.
    pub name: &'static str,
    /// Gives it bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("blk", targets::blk::run),
    target("control", targets::control::run),
    target("dialect", targets::dialect::run),
    target("guard", targets::guard::run),
    target("http", targets::http::run),
    target("inflight", targets::inflight::run),
    target("input", targets::input::run),
    target("ioapic", targets::ioapic::run),
    target("kernel", targets::kernel::run),
    target("machine", targets::machine::run),
    target("msix", targets::msix::run),
    target("net", targets::net::run),
    target("pci", targets::pci::run),
    target("plic", targets::plic::run),
    target("record", targets::record::run),
    target("spec", targets::spec::run),
    target("state", targets::state::run),
    target("supervisor", targets::supervisor::run),
    target("transport", targets::transport::run),
    target("vhost-user", targets::vhost_user::run),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// The target of this name.
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}
