// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench NAME`: measurements, closed by a line `RESULT name=value …`.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::arch::Arch;
use crate::command::file_name;
use crate::guests::{self, Kernels};
use crate::host::{self, Place};
use crate::{PlaceFlags, compile, lab, packages, progress};

const LIMIT: Duration = Duration::from_secs(900);

/// What can be measured.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Name {
    /// From exec to the guest's init beside QEMU's microvm; exec to the first KVM_RUN
    Boot,
    /// Our disk backend beside QEMU's storage daemon, and beside fio on the file itself
    Blk,
    /// Our network backend beside bare writes to and reads from a tap, and guests of ours beside
    /// QEMU's; takes root
    Net,
    /// From `bulkhead run` to the first KVM_RUN, with a disk and a network card, with up to 8 disks
    /// and 50 at once; takes root
    Launch,
    /// Pauses of a disk and of a network card whose backend is killed, upgraded or hangs, and of a guest whose
    /// vmm is replaced; takes root
    Restart,
}

/// Measures and prints.
pub(crate) fn run(name: Name, place: &PlaceFlags) -> Result<ExitCode> {
    match name {
        Name::Boot => boot(host::choose(place)?),
        Name::Blk => blk(),
        Name::Net => net(host::choose(place)?),
        Name::Launch => native("launch"),
        Name::Restart => native("restart"),
    }
}

/// Without a guest, so on this machine in any case. Start it when the machine is idle.
fn blk() -> Result<ExitCode> {
    packages::ensure(packages::BENCH_BLK)?;
    let binaries = compile::all(Arch::own())?;
    let dir = compile::root()?.join("target/bench");
    std::fs::create_dir_all(&dir)?;
    let file = dir.join("disk.img");
    let status = Command::new(program(&binaries, "loadgen")?)
        .args(["bench-blk", "--backend"])
        .arg(program(&binaries, "blk-backend")?)
        .arg("--file")
        .arg(&file)
        .stdin(Stdio::null())
        .status();
    // It is large, and quickly made again.
    let _ = std::fs::remove_file(&file);
    ensure!(status?.success(), "the measurement failed");
    Ok(ExitCode::SUCCESS)
}

/// Without a guest on this machine, in a network namespace made for it; then with guests.
fn net(place: Place) -> Result<ExitCode> {
    let binaries = compile::all(Arch::own())?;
    let mut native = Command::new(program(&binaries, "loadgen")?);
    native.args(["bench-net", "--backend"]);
    native.arg(program(&binaries, "net-backend")?);
    let bare = result(&captured(&mut native)?)?;
    progress::say("with a stock guest, in turns with QEMU's");
    let guests = with_guests("net", place, binaries, packages::BENCH_NET)?;
    println!("RESULT {bare} {}", result(&guests)?);
    Ok(ExitCode::SUCCESS)
}

/// Without a guest, so on this machine in any case.
fn native(name: &str) -> Result<ExitCode> {
    let binaries = compile::all(Arch::own())?;
    let status = Command::new(compile::runner(&binaries)?)
        .args(["bench", name])
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "the measurement failed");
    Ok(ExitCode::SUCCESS)
}

fn program<'a>(binaries: &'a [PathBuf], name: &str) -> Result<&'a PathBuf> {
    let found = binaries.iter().find(|path| file_name(path) == name);
    found.with_context(|| format!("the build made no {name}"))
}

fn boot(place: Place) -> Result<ExitCode> {
    let binaries = compile::all(place.arch())?;
    let footprint = if place.arch().is_own() {
        progress::say("with a hand-made kernel, on this machine");
        let mut native = Command::new(compile::runner(&binaries)?);
        captured(native.args(["bench", "footprint"]))?
    } else {
        progress::say("with a hand-made kernel, in the inner host");
        with_guests("footprint", place, binaries.clone(), &[])?
    };
    let footprint = result(&footprint)?;
    progress::say("with a stock kernel, in turns with QEMU's smallest machine");
    let boot = with_guests("boot", place, binaries, packages::qemu(Arch::own()))?;
    // Both measure the resident memory; that of a real guest counts.
    let first_run = footprint
        .split(' ')
        .find(|word| word.starts_with("exec_to_first_kvm_run_ms"));
    println!(
        "RESULT {} {}",
        result(&boot)?,
        first_run.unwrap_or_default()
    );
    Ok(ExitCode::SUCCESS)
}

/// Has the runner measure with stock guests, here with these packages or in the lab; shows what it
/// says but for its result.
fn with_guests(
    name: &str,
    place: Place,
    binaries: Vec<PathBuf>,
    wanted: &[packages::Needed],
) -> Result<String> {
    let words = ["bench", name, "--assets"];
    match place {
        Place::Native => {
            packages::ensure(wanted)?;
            let guests = guests::ready(&Kernels::ready(Arch::own())?)?;
            let mut native = Command::new(compile::runner(&binaries)?);
            captured(native.args(words).arg(guests))
        }
        Place::Lab(host) => {
            let words = [&[compile::RUNNER], &words[..], &[lab::GUESTS]].concat();
            let job = lab::Job {
                host,
                command: words.into_iter().map(str::to_owned).collect(),
                binaries,
                limit: LIMIT,
                silence: None,
            };
            let finished = lab::run(&job, |line| !line.starts_with("RESULT "))?;
            ensure!(finished.status? == 0, "the measurement failed");
            Ok(finished.stdout)
        }
    }
}

/// Runs a measurement here; shows what it says but for its result.
fn captured(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|line| !line.starts_with("RESULT "))
        .for_each(|line| println!("{line}"));
    ensure!(output.status.success(), "the measurement failed");
    Ok(text)
}

fn result(text: &str) -> Result<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    Ok(line.context("the measurement has no result")?.to_owned())
}
