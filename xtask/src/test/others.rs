// SPDX-License-Identifier: Apache-2.0
//! The architectures that are not this machine's, as a whole run has them: in the lab, and without the
//! cases that an interrupt controller makes no difference to. `--arch` runs all cases of one.

use anyhow::Result;

use super::cases::{self, Extent};
use super::tally::Tally;
use super::times::Times;
use crate::arch::Arch;
use crate::{TestFlags, compile, lab, progress};

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
