// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: a stock Debian guest under `bulkhead run`.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::guests::{self, Kernels};
use crate::host::{self, Place};
use crate::{PlaceFlags, compile, lab, progress};

const SCRIPT_LIMIT: Duration = Duration::from_secs(300);
const SESSION_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// A console for the user, or a scripted session where there is no terminal.
pub(crate) fn run(place: PlaceFlags) -> Result<ExitCode> {
    let place = host::choose(place);
    let binaries = compile::all()?;
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let status = match (interactive, place) {
        (true, Place::Native) => session_here(&binaries)?,
        (true, Place::Lab) => session_in_the_lab(binaries)?,
        (false, Place::Native) => script_here(&binaries)?,
        (false, Place::Lab) => script_in_the_lab(binaries)?,
    };
    if !interactive && status == 0 {
        println!("demo: every step held");
    }
    Ok(ExitCode::from(status))
}

/// `bulkhead run` for a guest with a shell on its console.
fn arguments(guests: &Path) -> Vec<String> {
    let file = |name: &str| guests.join(name).display().to_string();
    let cmdline = "console=ttyS0 quiet guest.do=shell";
    [
        ["--name", "demo"].map(str::to_owned),
        ["--kernel".to_owned(), file("vmlinuz-6.12")],
        ["--initrd".to_owned(), file("initrd-6.12.cpio")],
        ["--cmdline", cmdline].map(str::to_owned),
        ["--cpus", "2"].map(str::to_owned),
        ["--mem", "512M"].map(str::to_owned),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn session_here(binaries: &[PathBuf]) -> Result<u8> {
    let guests = guests::ready(&Kernels::ready()?)?;
    let runner = compile::runner(binaries)?;
    let bulkhead = runner.with_file_name("bulkhead");
    progress::say("the guest's console; poweroff -f ends the guest, Ctrl-a x leaves");
    let mut command = Command::new(&bulkhead);
    let status = command
        .arg("run")
        .args(arguments(&guests))
        .status()
        .context("bulkhead")?;
    Ok(status_byte(status.code()))
}

fn session_in_the_lab(binaries: Vec<PathBuf>) -> Result<u8> {
    progress::say("the guest's console; poweroff -f ends the guest, Ctrl-a x or Ctrl-] leaves");
    let mut command = vec!["bulkhead".to_owned(), "run".to_owned()];
    command.extend(arguments(Path::new(lab::GUESTS)));
    lab::run_on_terminal(&lab::Job {
        command,
        binaries,
        limit: SESSION_LIMIT,
    })
}

fn script_here(binaries: &[PathBuf]) -> Result<u8> {
    let guests = guests::ready(&Kernels::ready()?)?;
    let args: [OsString; 3] = ["demo".into(), "--assets".into(), guests.into()];
    let status = Command::new(compile::runner(binaries)?)
        .args(args)
        .status()?;
    Ok(status_byte(status.code()))
}

fn script_in_the_lab(binaries: Vec<PathBuf>) -> Result<u8> {
    let command = [compile::RUNNER, "demo", "--assets", lab::GUESTS]
        .map(str::to_owned)
        .to_vec();
    let job = lab::Job {
        command,
        binaries,
        limit: SCRIPT_LIMIT,
    };
    lab::run(&job, |_| true)?.status
}

fn status_byte(code: Option<i32>) -> u8 {
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
