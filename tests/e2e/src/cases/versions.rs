// SPDX-License-Identifier: Apache-2.0
//! Programs of two versions in one VM: its backends are upgraded from one to the other and back, and
//! killed, while their device is loaded. Each version's supervisor and vmm once.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::Case;
use crate::context::Context;
use crate::harness::{DEVICES, Device, Harness, Setup};

/// For how long the device is loaded.
const SECONDS: u64 = 20;
/// So many changes of version at the least.
const CHANGES_MIN: u32 = 6;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, device) in DEVICES {
        cases.extend([
            Case::native(
                format!("versions_of_backends_change_on_{name}_under_this_supervisor"),
                move |context| change(context, context.bin(), name, device),
            )
            .beside_previous(),
            Case::native(
                format!("versions_of_backends_change_on_{name}_under_the_previous_supervisor"),
                move |context| change(context, context.previous()?, name, device),
            )
            .beside_previous(),
        ]);
    }
    cases
}

/// Programs are known by the name of their file.
fn copy(harness: &Harness, from: &Path, program: &str, name: &str) -> Result<PathBuf> {
    let path = harness.dir().join(name);
    std::fs::copy(from.join(program), &path)?;
    Ok(path)
}

fn change(context: &Context, supervisor: &Path, name: &str, device: Device) -> Result<()> {
    let setup = Setup {
        bin: supervisor,
        ..Setup::new(context, SECONDS)
    };
    let harness = Harness::start_as(context, "versions", setup, device)?;
    let programs = [
        copy(&harness, context.previous()?, device.program(), "previous")?,
        copy(&harness, context.bin(), device.program(), "this")?,
    ];
    let until = Instant::now() + Duration::from_secs(SECONDS - 4);
    let mut changes = 0_u32;
    for program in programs.iter().cycle() {
        if Instant::now() >= until {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        let binary = program.display().to_string();
        harness.bulkhead_ok("upgrade", &[device.id(), "--binary", &binary])?;
        let runs = std::fs::read_link(format!("/proc/{}/exe", harness.backend()?))?;
        ensure!(runs == *program, "{} serves the device", runs.display());
        changes += 1;
        // Its successor finds what it leaves behind, and then the other version.
        let (dead, _) = harness.signal(Signal::SIGKILL)?;
        harness.backend_after(dead)?;
    }
    println!("SEEN versions device={name} changes={changes} kills={changes}");
    ensure!(changes >= CHANGES_MIN, "{changes} changes only");
    harness.finish()?.frames.explained_by(changes.into())
}
