// SPDX-License-Identifier: Apache-2.0
//! The emulator that the inner host runs on: QEMU of the inner host's own Debian release, whatever
//! release this machine runs.
//!
//! It is unpacked with the libraries it needs and run by its own dynamic loader, so nothing of it is
//! installed. The older one of Debian 12 (7.2) loses the place of a nested guest several times as often,
//! which then hangs or triple-faults.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{Release, transport_settings};
use crate::command::{command, piped, program};
use crate::{cache, guests, progress};

const PACKAGE: &str = "qemu-system-x86";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PROGRAM: &str = "usr/bin/qemu-system-x86_64";
/// Where it looks for firmware.
const FIRMWARE: [&str; 2] = ["usr/share/qemu", "usr/share/seabios"];
/// What it never looks at.
const LEFT_OUT: [&str; 3] = ["./usr/share/doc", "./usr/share/man", "./usr/share/locale"];

/// QEMU, unpacked.
pub(crate) struct Emulator(PathBuf);

impl Emulator {
    /// Fetches it if the cache does not have it.
    pub(super) fn ready() -> Result<Self> {
        let recipe = format!("{} {PACKAGE} {LEFT_OUT:?}", guests::LAB_RELEASE);
        Ok(Self(cache::entry("emulator", &[&recipe], unpack)?))
    }

    /// QEMU without arguments, ended by the kernel when we end, whatever ends us.
    pub(super) fn command(&self) -> Command {
        let at = |path: &str| self.0.join(path);
        let mut qemu = command(program("setpriv"), ["--pdeathsig", "KILL", "--"]);
        qemu.arg(at(LOADER)).arg("--library-path");
        qemu.arg(at(LIBRARIES)).arg(at(PROGRAM));
        for dir in FIRMWARE {
            qemu.arg("-L").arg(at(dir));
        }
        qemu.env("QEMU_MODULE_DIR", at(LIBRARIES).join("qemu"));
        qemu
    }
}

fn unpack(dir: &Path) -> Result<()> {
    let release = Release::open(guests::LAB_RELEASE)?;
    let settings = dir.join("transport.conf");
    fs::write(&settings, transport_settings()?)?;
    let mut debootstrap = command(
        "mmdebstrap",
        ["--variant=extract", "--format=tar", "--quiet"],
    );
    debootstrap
        .arg(format!("--aptopt={}", settings.display()))
        .arg(format!("--include={PACKAGE}"))
        .args([guests::LAB_RELEASE, "-"])
        .arg(release.sources());
    let mut tar = command("tar", ["--extract", "--no-same-owner", "--exclude=./dev/*"]);
    tar.args(LEFT_OUT.map(|path| format!("--exclude={path}")));
    tar.arg("--directory").arg(dir);
    progress::step(
        "fetching QEMU for the inner host (about half a minute)",
        || piped(&mut debootstrap, &mut tar),
    )?;
    fs::remove_file(settings).context("transport.conf")
}
