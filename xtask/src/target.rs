// SPDX-License-Identifier: Apache-2.0
//! What programs are built for: an architecture, with musl where it can be had.
//!
//! Every program is static, and the C library in it starts before the program does. glibc begins with
//! CPUID instructions, dozens of them, each of which leaves the guest where we run in one; musl has none.
//! rustup has Rust's standard library for musl; where it cannot be had, programs are linked with the
//! glibc of this machine, which everything works with, too. For riscv64 rustup has none at all: these
//! programs are linked with the glibc of Debian's cross compiler.
//!
//! Which linker each target takes is in `.cargo/config.toml`.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};

use crate::arch::Arch;
use crate::command::{command, find, output, quiet};
use crate::{packages, progress};

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

/// Has cargo build programs for it; fetches what that takes.
pub(crate) fn build_for(cargo: &mut Command, arch: Arch) -> Result<()> {
    cargo.env("CARGO_BUILD_TARGET", name(arch, libc(arch)?));
    Ok(())
}

/// Has cargo build programs for this machine.
pub(crate) fn build_for_here(cargo: &mut Command) -> Result<()> {
    build_for(cargo, Arch::own())
}

/// What programs are linked with; said once when it is not what we wish.
pub(crate) fn libc(arch: Arch) -> Result<Libc> {
    static HERE: OnceLock<Libc> = OnceLock::new();
    match arch {
        Arch::Riscv64 => {
            ensure_library(arch, Libc::Glibc)?;
            if !arch.is_own() {
                packages::ensure(packages::RISCV64_COMPILER)?;
            }
            Ok(Libc::Glibc)
        }
        _ if arch.is_own() => Ok(*HERE.get_or_init(|| match ensure_library(arch, Libc::Musl) {
            Ok(()) => Libc::Musl,
            Err(e) => {
                progress::say(format_args!(
                    "programs are linked with this machine's glibc, and start more slowly: {} cannot be had: {e:#}",
                    name(arch, Libc::Musl)
                ));
                Libc::Glibc
            }
        })),
        _ => {
            ensure_library(arch, Libc::Musl)?;
            Ok(Libc::Musl)
        }
    }
}

fn name(arch: Arch, libc: Libc) -> String {
    format!("{}-unknown-linux-{}", arch.names().rust, libc.name())
}

/// Makes sure that rustc has a standard library for it.
fn ensure_library(arch: Arch, libc: Libc) -> Result<()> {
    let name = name(arch, libc);
    let print = ["--print", "target-libdir", "--target", &name];
    let dir = output(&mut command("rustc", print))?;
    if Path::new(String::from_utf8(dir)?.trim()).is_dir() {
        return Ok(());
    }
    let rustup = find("rustup").ok_or_else(|| anyhow!("there is no rustup to install it with"))?;
    progress::step(&format!("installing rustc's {name}"), || {
        quiet(&mut command(rustup, ["target", "add", &name]))
    })
}
