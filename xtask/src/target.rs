// SPDX-License-Identifier: Apache-2.0
//! What programs are built for: this machine, with musl.
//!
//! Every program is static, and the C library in it starts before the program does. glibc begins with
//! CPUID instructions, dozens of them, each of which leaves the guest where we run in one; musl has none.
//! rustup has Rust's standard library for musl; where it cannot be had, programs are linked with the
//! glibc of this machine, which everything works with, too.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};

use crate::command::{command, find, output, quiet};
use crate::progress;

/// The C library of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Libc {
    Musl,
    Glibc,
}

impl Libc {
    /// Its name in a target's, and in the rules of filters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Musl => "musl",
            Self::Glibc => "gnu",
        }
    }
}

/// Has cargo build programs for it.
pub(crate) fn build_for(cargo: &mut Command) {
    if libc() == Libc::Musl {
        cargo.env("CARGO_BUILD_TARGET", musl());
    }
}

/// What programs are linked with; said once when it is not what we wish.
pub(crate) fn libc() -> Libc {
    static CHOSEN: OnceLock<Libc> = OnceLock::new();
    *CHOSEN.get_or_init(|| match ensure_musl() {
        Ok(()) => Libc::Musl,
        Err(e) => {
            progress::say(format_args!(
                "programs are linked with this machine's glibc, and start more slowly: {} cannot be had: {e:#}",
                musl()
            ));
            Libc::Glibc
        }
    })
}

fn musl() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Makes sure that rustc has a standard library for musl.
fn ensure_musl() -> Result<()> {
    let print = ["--print", "target-libdir", "--target", &musl()];
    let dir = output(&mut command("rustc", print))?;
    if Path::new(String::from_utf8(dir)?.trim()).is_dir() {
        return Ok(());
    }
    let rustup = find("rustup").ok_or_else(|| anyhow!("there is no rustup to install it with"))?;
    progress::step(&format!("installing rustc's {}", musl()), || {
        quiet(&mut command(rustup, ["target", "add", &musl()]))
    })
}
