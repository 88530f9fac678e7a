// SPDX-License-Identifier: Apache-2.0
//! Backends on storage that takes its time: what a dead one had begun must be over before the next
//! one serves, and slow storage is no reason to kill anybody.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{Case, ONCE};
use crate::context::Context;
use crate::machine::Machine;
use crate::storage::{FAST, Storage};
use crate::vm::{PATIENCE, Stock};

const SOAK: Duration = Duration::from_secs(60 * 60);
/// How long the slow device delays everything.
const DELAY_MS: u32 = 500;
/// The same where it must be longer than the next generation takes to be there.
const LONG_DELAY_MS: u32 = 1500;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for engine in ["uring", "threads"] {
        let fenced = move |context: &Context, rounds| {
            let slow = Storage::slow("fenced", DELAY_MS)?;
            let output = stale(context, &slow, engine, "whole", rounds)?;
            ensure!(output.status.success(), "{}", output.status);
            Ok(())
        };
        cases.extend([
            Case::guest(
                format!("fence_of_{engine}_before_slow_storage_lets_nothing_through"),
                move |context| fenced(context, 20),
            )
            .not_on(Machine::SECOND, ONCE),
            Case::guest(
                format!("fence_of_{engine}_before_slow_storage_200_times_lets_nothing_through"),
                move |context| fenced(context, 200),
            )
            .soak(SOAK),
            Case::guest(
                format!("fence_of_{engine}_switched_off_lets_stale_writes_and_late_reads_through"),
                move |context| unfenced(context, engine),
            )
            .only_on_x86("it shows once for all that the case with the fence can fail"),
        ]);
    }
    cases.extend([
        Case::guest("storage_stalled_for_seconds_kills_no_backend", |context| {
            stalled(context, 5)
        })
        .not_on(Machine::SECOND, ONCE),
        Case::guest(
            "storage_stalled_for_half_a_minute_kills_no_backend",
            |context| stalled(context, 30),
        )
        .soak(SOAK),
    ]);
    cases
}

/// Kills backends with requests in flight to slow storage, and looks what these still do.
fn stale(
    context: &Context,
    slow: &Storage,
    engine: &str,
    fence: &str,
    rounds: u32,
) -> Result<Output> {
    let mut command = Command::new(context.program("loadgen"));
    command
        // No more than an engine of threads gives to the kernel at once.
        .args([
            "crash-tests",
            "--engine",
            engine,
            "--depth",
            "4",
            "--binary",
        ])
        .arg(context.program("blk-backend"))
        .arg("--image")
        .arg(slow.path())
        .args(["stale", "--fast", FAST, "--fence", fence])
        .args(["--rounds", &rounds.to_string()])
        .args(["--delay-ms", &slow.delay_ms().to_string()])
        .env("TMPDIR", context.dir());
    let output = command.output().context("loadgen")?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    print!("{}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

/// The figure behind a name in what the load generator has seen.
fn figure(output: &Output, name: &str) -> Result<u64> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut words = text.split_whitespace();
    let found = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let found = found.with_context(|| format!("no {name} in {text:?}"))?;
    Ok(found.parse()?)
}

/// Without the fence the same must go wrong, or the other test proves nothing. For rings the end of
/// the process is not enough; a thread ends only after what it does for the process, so that its
/// process has to be left alone while it dies.
fn unfenced(context: &Context, engine: &str) -> Result<()> {
    let slow = Storage::slow("unfenced", LONG_DELAY_MS)?;
    let fences: &[(&str, bool)] = match engine {
        "uring" => &[("process", true), ("off", true)],
        _ => &[("process", false), ("off", true)],
    };
    for (fence, goes_wrong) in fences {
        let output = stale(context, &slow, engine, fence, 4)?;
        let (stale, late) = (figure(&output, "stale")?, figure(&output, "late")?);
        if *goes_wrong {
            ensure!(stale > 0, "no stale write with the fence at {fence}");
            ensure!(late > 0, "no late read with the fence at {fence}");
            ensure!(!output.status.success(), "loadgen takes it for good");
        }
    }
    Ok(())
}

/// A guest's disk whose storage does nothing for a while.
fn stalled(context: &Context, seconds: u64) -> Result<()> {
    let storage = Storage::quick("stalled")?;
    let disk = format!("path={},direct", storage.path().display());
    let builder = context
        .vm("slow")
        .boots(Stock::DEFAULT, "disk guest.rounds=6");
    let mut vm = builder.mem_mib(256).arg("--disk", disk).start()?;
    vm.wait_for("GUEST disk_round=2", PATIENCE)?;

    storage.suspend()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let seen = vm.console().text().matches("disk_round=").count();
    storage.resume()?;

    vm.wait_for("GUEST disk_round=5", PATIENCE)?;
    let info = context.run_ok(&["inspect", vm.name(), "--json"])?;
    let verdict = vm.guest_value("disk")?;
    vm.expect_exit(0)?;
    println!("SEEN stalled seconds={seconds} rounds_before={seen} verdict={verdict}");
    ensure!(seen < 5, "the storage was not stalled");
    ensure!(verdict == "ok", "the guest says {verdict:?} of its disk");
    ensure!(
        !info.contains("\"restarts\": 1"),
        "a backend was killed for its storage"
    );
    Ok(())
}
