// SPDX-License-Identifier: Apache-2.0
//! The emulator that the inner host runs on: QEMU of the inner host's own Debian release, whatever
//! release this machine runs.
//!
//! It is unpacked with the libraries it needs and run by its own dynamic loader, so nothing of it is
//! installed. The older one of Debian 12 (7.2) loses the place of a nested guest several times as often,
//! which then hangs or triple-faults.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::hosts::Qemu;
use crate::apt::Release;
use crate::arch::Arch;
use crate::bootstrap::Bootstrap;
use crate::command::{command, program};
use crate::{cache, guests, progress};

/// What it never looks at.
const LEFT_OUT: [&str; 3] = ["./usr/share/doc", "./usr/share/man", "./usr/share/locale"];

/// QEMU, unpacked.
pub(crate) struct Emulator {
    dir: PathBuf,
    qemu: &'static Qemu,
}

impl Emulator {
    /// Fetches it if the cache does not have it.
    pub(super) fn ready(qemu: &'static Qemu) -> Result<Self> {
        let package = qemu.package;
        let recipe = format!("{} {package} {LEFT_OUT:?}", guests::LAB_RELEASE);
        let dir = cache::entry("emulator", &[&recipe], |dir| unpack(package, dir))?;
        Ok(Self { dir, qemu })
    }

    /// QEMU without arguments, ended by the kernel when we end, whatever ends us.
    pub(super) fn command(&self) -> Command {
        let at = |path: &str| self.dir.join(path);
        let own = Arch::own().names();
        let libraries = at("usr/lib").join(own.gnu);
        let mut qemu = command(program("setpriv"), ["--pdeathsig", "KILL", "--"]);
        qemu.arg(at(own.loader)).arg("--library-path");
        qemu.arg(&libraries).arg(at(self.qemu.program));
        for dir in self.qemu.firmware {
            qemu.arg("-L").arg(at(dir));
        }
        qemu.env("QEMU_MODULE_DIR", libraries.join("qemu"));
        qemu
    }
}

fn unpack(package: &str, dir: &Path) -> Result<()> {
    let release = Release::open(guests::LAB_RELEASE, Arch::own())?;
    let bootstrap = Bootstrap::program(&release, dir, package)?;
    let mut tar = command("tar", ["--extract", "--no-same-owner", "--exclude=./dev/*"]);
    tar.args(LEFT_OUT.map(|path| format!("--exclude={path}")));
    tar.arg("--directory").arg(dir);
    progress::step(
        "fetching QEMU for the inner host (about half a minute)",
        || bootstrap.into(&mut tar),
    )
}
