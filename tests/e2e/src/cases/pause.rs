// SPDX-License-Identifier: Apache-2.0
//! What a stock guest finds after a pause: time has passed, the time of day is right, and nothing in it
//! believes that a processor hung. And what may be done to its backends meanwhile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use nix::sys::signal::{Signal, kill};

use super::Case;
use crate::context::Context;
use crate::harness::{Device, Harness};
use crate::vm::{PATIENCE, Stock, Vm};

/// How long nothing runs.
const PAUSE: Duration = Duration::from_secs(5);
/// For so long a backend is stopped: longer than it may be while its guest runs.
const STOPPED: Duration = Duration::from_secs(4);
/// Both clocks are read in whole seconds.
const ROUNDING_S: i64 = 1;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::guest("pause_of_a_guest_leaves_its_clock_right", clock),
        Case::native(
            "pause_finds_no_backend_hung_and_lets_it_be_replaced",
            replaced,
        ),
    ]
}

fn replaced(context: &Context) -> Result<()> {
    let disk = Device::Disk(",queues=2");
    let mut harness = Harness::start(context, "paused", 60, disk)?;
    let new = harness.dir().join("backend-new");
    std::fs::copy(harness.dir().join(disk.program()), &new)?;
    harness.bulkhead_ok("pause", &[])?;

    let (stopped, _) = harness.signal(Signal::SIGSTOP)?;
    std::thread::sleep(STOPPED);
    let goes_on = harness.backend()?;
    kill(stopped, Signal::SIGCONT)?;
    ensure!(goes_on == stopped, "{stopped} was found hung");

    let (killed, _) = harness.signal(Signal::SIGKILL)?;
    let heir = harness.backend_after(killed)?;
    let upgrade = [disk.id(), "--binary", &new.display().to_string()];
    harness.bulkhead_ok("upgrade", &upgrade)?;
    ensure!(harness.backend()? != heir, "it is the same process");
    let state = harness.info()?["state"].clone();
    ensure!(state == "paused", "the VM is {state}");

    harness.bulkhead_ok("resume", &[])?;
    harness.press_power_button()?;
    harness.finish().map(drop)
}

/// The answer to a command whose output is one line.
fn ask(vm: &mut Vm, command: &str) -> Result<String> {
    vm.type_line(&format!("echo \"@$({command})@\""))?;
    vm.wait_for("@", PATIENCE)?;
    let line = vm.line()?;
    Ok(line.trim_end_matches('@').to_owned())
}

fn host_s() -> Result<i64> {
    Ok(i64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    )?)
}

/// How far the guest's time of day is ahead of the host's: at least, and at most.
fn ahead_s(vm: &mut Vm) -> Result<(i64, i64)> {
    let before = host_s()?;
    let guest: i64 = ask(vm, "date +%s")?.parse().context("date")?;
    Ok((guest - host_s()? - ROUNDING_S, guest - before + ROUNDING_S))
}

fn uptime_s(vm: &mut Vm) -> Result<f64> {
    let text = ask(vm, "cut -d ' ' -f 1 /proc/uptime")?;
    text.parse().with_context(|| format!("uptime {text:?}"))
}

fn clock(context: &Context) -> Result<()> {
    let builder = context.vm("paused").boots(Stock::DEFAULT, "shell");
    let mut vm = builder.mem_mib(256).cpus(2).start()?;
    vm.wait_for("guest# ", PATIENCE)?;
    // No echo, in which the markers would be found, and no prompt behind them.
    vm.type_line("stty -echo; PS1=; echo quiet''ly")?;
    vm.wait_for("quietly", PATIENCE)?;
    vm.wait_for("\n", PATIENCE)?;
    let (before, up_before) = (ahead_s(&mut vm)?, uptime_s(&mut vm)?);

    context.run_ok(&["pause", vm.name()])?;
    std::thread::sleep(PAUSE);
    context.run_ok(&["resume", vm.name()])?;

    let (after, up_after) = (ahead_s(&mut vm)?, uptime_s(&mut vm)?);
    println!("ahead by {before:?} s before, {after:?} s after; up {up_before} s, {up_after} s");
    ensure!(
        before.0 <= after.1 && after.0 <= before.1,
        "the time of day was {before:?} s ahead, and is {after:?} s ahead"
    );
    let passed = up_after - up_before;
    ensure!(passed >= PAUSE.as_secs_f64(), "only {passed} s have passed");
    let complaints = ask(&mut vm, "dmesg | grep -ciE 'lockup|stall'")?;
    ensure!(complaints == "0", "the guest complains {complaints} times");
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)
}
