// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: style, unit tests, process tests, end-to-end tests, one closing line.

mod cases;
mod checks;
mod tally;

use std::process::ExitCode;

use anyhow::Result;

use crate::host::{self, Place};
use crate::{TestFlags, compile};
use tally::Tally;

/// Runs everything, or only the end-to-end cases that the filter selects.
pub(crate) fn run(flags: &TestFlags) -> Result<ExitCode> {
    let mut tally = Tally::default();
    if flags.filter.is_none() {
        tally += checks::style()?;
        tally += checks::unit_tests()?;
        tally += checks::fuzz()?;
    }
    let place = host::choose(flags.place);
    match compile::all() {
        Ok(binaries) => {
            let group = (place == Place::Lab).then_some("native");
            tally += cases::natively(flags, &binaries, group)?;
            if place == Place::Lab {
                tally += cases::in_the_lab(flags, &binaries)?;
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
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
