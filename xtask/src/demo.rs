// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: a stock Debian guest under `bulkhead run`.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::arch::Arch;
use crate::guests::{self, Kernels};
use crate::host::{self, Place};
use crate::lab::InnerHost;
use crate::{PlaceFlags, compile, lab, progress};

/// The exit status by which the session says that emulation may have lost its guest.
const LOST: u8 = 75;
/// How often it is begun then.
const CHANCES: u32 = 5;
const SCRIPT_LIMIT: Duration = Duration::from_secs(300);
const SHELL_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A session that checks itself; or, with `shell`, the guest's console for the user.
pub(crate) fn run(place: &PlaceFlags, shell: bool) -> Result<ExitCode> {
    let place = host::choose(place)?;
    let binaries = compile::all(place.arch())?;
    let mut demo = vec!["demo".to_owned(), "--assets".to_owned()];
    demo.extend(shell.then(|| "--shell".to_owned()));
    let status = match place {
        Place::Native => here(&binaries, demo)?,
        Place::Lab(host) => in_the_lab(host, binaries, demo, shell)?,
    };
    if !shell && status == 0 {
        println!("demo: every step held");
    }
    Ok(ExitCode::from(status))
}

fn here(binaries: &[PathBuf], mut demo: Vec<String>) -> Result<u8> {
    let guests = guests::ready(&Kernels::ready(Arch::own())?)?;
    demo.insert(2, guests.display().to_string());
    let mut command = Command::new(compile::runner(binaries)?);
    let status = command.args(demo).status().context(compile::RUNNER)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(1))
}

fn in_the_lab(
    host: &'static InnerHost,
    binaries: Vec<PathBuf>,
    mut demo: Vec<String>,
    shell: bool,
) -> Result<u8> {
    demo.insert(2, lab::GUESTS.to_owned());
    demo.insert(0, compile::RUNNER.to_owned());
    let limit = if shell { SHELL_LIMIT } else { SCRIPT_LIMIT };
    let job = lab::Job {
        host,
        command: demo,
        binaries,
        limit,
        silence: None,
    };
    if shell {
        progress::say("Ctrl-] leaves the inner host and everything in it");
        return lab::run_on_terminal(&job);
    }
    for _ in 1..CHANCES {
        let status = lab::run(&job, |_| true)?.status?;
        if status != LOST {
            return Ok(status);
        }
        println!("demo: once more, from the beginning");
    }
    lab::run(&job, |_| true)?.status
}
