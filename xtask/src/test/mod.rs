// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: style, unit tests, process tests, end-to-end tests, one closing line.

mod cases;
mod checks;
mod tally;
mod times;

use std::process::ExitCode;

use anyhow::Result;

use crate::host::{self, Place};
use crate::{TestFlags, compile};
use tally::Tally;
use times::Times;

/// Runs everything, or only the end-to-end cases that the filter selects.
pub(crate) fn run(flags: &TestFlags) -> Result<ExitCode> {
    let (mut tally, mut times) = (Tally::default(), Times::default());
    if flags.filter.is_none() {
        tally += times.of("style", |_| checks::style())?;
        tally += times.of("unit tests", |_| checks::unit_tests())?;
        tally += times.of("fuzzing", |_| checks::fuzz())?;
    }
    let place = host::choose(flags.place);
    match times.of("building", |_| compile::all()) {
        Ok(binaries) => {
            let group = (place == Place::Lab).then_some("native");
            tally += times.of("cases here", |times| {
                cases::natively(flags, &binaries, group, times)
            })?;
            if place == Place::Lab {
                tally += times.of("cases in the lab", |times| {
                    cases::in_the_lab(flags, &binaries, times)
                })?;
            }
        }
        Err(error) => {
            println!("FAILED   {error:#}");
            tally += Tally::FAILURE;
        }
    }
    let Tally {
        passed,
        failed,
        skipped,
    } = tally;
    for line in times.lines() {
        println!("{line}");
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
