// SPDX-License-Identifier: Apache-2.0
//! The architectures that are not this machine's, as a whole run has them: in the lab, and without the
//! cases that an interrupt controller makes no difference to. `--arch` runs all cases of one.

use std::path::PathBuf;

use anyhow::Result;

use super::cases::{self, Extent};
use super::tally::Tally;
use super::times::Times;
use crate::arch::Arch;
use crate::{TestFlags, compile, deb, dist, lab, progress};

/// Those whose cases are part of each whole run.
const RUN: &[Arch] = &[Arch::Aarch64, Arch::Riscv64];

/// The cases of other architectures that are part of a whole run.
pub(super) fn run(flags: &TestFlags, times: &mut Times) -> Result<Tally> {
    let mut tally = Tally::default();
    if Arch::own() != Arch::X86_64 {
        progress::say("other architectures are run on x86_64 machines only");
        return Ok(tally);
    }
    for arch in RUN {
        let built = times.of("building for others", |_| compile::all(*arch));
        match built {
            Ok(binaries) => {
                tally += packages(*arch, &binaries, times);
                for host in lab::of_arch(*arch) {
                    tally += times.of(host.name, |times| {
                        cases::in_the_lab(host, flags, &binaries, Extent::Brief, times)
                    })?;
                }
            }
            Err(error) => {
                println!("FAILED   {error:#}");
                tally += Tally::failure(format!("building for {arch}"));
            }
        }
    }
    Ok(tally)
}

/// The packages of an architecture, of what was built for its cases.
fn packages(arch: Arch, binaries: &[PathBuf], times: &mut Times) -> Tally {
    let Some(host) = lab::of_arch(arch).next() else {
        return Tally::default();
    };
    let run = || {
        let shipped = compile::shipped_among(binaries)?;
        deb::run_for(arch, &dist::lay_out(arch, shipped)?)
    };
    super::case(deb::CASE_OF_ANOTHER, host.runs, run, times)
}
