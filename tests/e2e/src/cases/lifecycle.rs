// SPDX-License-Identifier: Apache-2.0
//! How a stock guest's life goes on and ends: reboot, power-off, panic, the power button.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::{Case, ONCE};
use crate::context::Context;
use crate::machine::Machine;
use crate::vm::{PATIENCE, Stock, Vm};

/// Reboots until the limit on them.
const STORM: Duration = Duration::from_secs(80);

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::guest("poweroff_by_the_guest_exits_0", poweroff).not_on(Machine::SECOND, ONCE),
        Case::guest("reboot_by_the_guest_boots_again", reboot),
        Case::guest("reboot_with_on_reboot_exit_exits_0", reboot_exits).not_on(Machine::SECOND, ONCE),
        Case::guest("panic_with_pvpanic_exits_3", panic).only_on_x86("no kernel of Debian's has pvpanic there; `no_os_guest_that_reports_a_panic_exits_3` uses it"),
        Case::guest(
            "panic_without_pvpanic_ends_as_a_reboot_storm_with_3",
            panic_unseen,
        )
        .not_on(Machine::SECOND, ONCE),
        Case::guest("sigterm_presses_the_power_button", sigterm),
        Case::guest("sigterm_twice_ends_at_once", sigterm_twice).not_on(Machine::SECOND, ONCE),
        Case::guest("stop_presses_the_power_button", stop),
        Case::guest("console_typed_into_answers", console),
    ]
}

fn start(context: &Context, does: &'static str) -> Result<Vm> {
    context
        .vm("life")
        .boots(Stock::DEFAULT, does)
        .mem_mib(256)
        .start()
}

fn poweroff(context: &Context) -> Result<()> {
    let mut vm = start(context, "poweroff")?;

    vm.expect_exit(0)
}

fn reboot(context: &Context) -> Result<()> {
    let mut vm = start(context, "ask")?;
    vm.wait_for("GUEST ready", PATIENCE)?;
    vm.type_line("disk")?;
    let verdict = vm.guest_value("disk")?;
    ensure!(
        verdict == "missing",
        "a guest without a disk says {verdict}"
    );

    vm.type_line("reboot")?;

    vm.wait_for("GUEST ready", PATIENCE)?;
    vm.type_line("poweroff")?;
    vm.expect_exit(0)?;
    let boots = vm.console().text().matches("GUEST uptime=").count();
    ensure!(boots == 2, "there were {boots} boots");
    Ok(())
}

fn reboot_exits(context: &Context) -> Result<()> {
    let builder = context
        .vm("life")
        .boots(Stock::DEFAULT, "reboot")
        .mem_mib(256);
    let mut vm = builder.arg("--on-reboot", "exit").start()?;

    vm.expect_exit(0)?;

    let boots = vm.console().text().matches("GUEST uptime=").count();
    ensure!(boots == 1, "there were {boots} boots");
    Ok(())
}

fn panic(context: &Context) -> Result<()> {
    let mut vm = start(context, "panic")?;

    vm.expect_exit(3)?;

    ensure!(
        vm.console().text().contains("Kernel panic"),
        "the guest did not panic"
    );
    Ok(())
}

fn panic_unseen(context: &Context) -> Result<()> {
    let mut vm = start(context, "crash-no-pvpanic")?;

    let status = vm.wait_exit(STORM)?;

    ensure!(
        status == 3,
        "bulkhead exited {status}; it said:\n{}",
        vm.log().tail()
    );
    let boots = vm.console().text().matches("GUEST uptime=").count();
    ensure!(boots > 1, "there was no reboot");
    Ok(())
}

fn sigterm(context: &Context) -> Result<()> {
    let mut vm = start(context, "wait")?;
    vm.wait_for("GUEST waiting", PATIENCE)?;

    vm.signal(Signal::SIGTERM)?;

    vm.wait_for("GUEST button", PATIENCE)?;
    vm.expect_exit(0)
}

fn sigterm_twice(context: &Context) -> Result<()> {
    let mut vm = start(context, "spin")?;
    vm.wait_for("GUEST spinning", PATIENCE)?;

    vm.signal(Signal::SIGTERM)?;
    std::thread::sleep(Duration::from_millis(500));
    vm.signal(Signal::SIGTERM)?;

    vm.wait_exit(Duration::from_secs(5)).map(drop)
}

fn stop(context: &Context) -> Result<()> {
    let mut vm = start(context, "wait")?;
    vm.wait_for("GUEST waiting", PATIENCE)?;

    context.run_ok(&["stop", vm.name()])?;

    vm.wait_for("GUEST button", PATIENCE)?;
    vm.expect_exit(0)
}

fn console(context: &Context) -> Result<()> {
    let mut vm = start(context, "ask")?;
    vm.wait_for("GUEST ready", PATIENCE)?;
    // Longer than a UART's FIFO: nothing may be lost.
    let line = "0123456789abcdef".repeat(12);

    vm.type_line(&line)?;

    vm.wait_for(&format!("GUEST echo={line}"), PATIENCE)?;
    vm.type_line("poweroff")?;
    vm.expect_exit(0)
}
