// SPDX-License-Identifier: Apache-2.0
//! Power buttons: which one a machine has, what `stop` says of it, and one that is a device with a
//! backend of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Case;
use crate::context::Context;
use crate::inspect;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{PATIENCE, Stock, Vm};

/// The role of its backend.
const BACKEND: &str = "input power-button";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("stop_says_which_button_it_presses", told),
        Case::native("stop_without_a_button_is_refused_unless_forced", none),
        Case::native("sigterm_without_a_button_ends_at_once", none_by_signal),
        Case::native(
            "power_button_without_a_driver_is_said_and_the_timeout_ends_it",
            no_driver,
        ),
        Case::native(
            "power_button_whose_backend_is_killed_gets_another",
            replaced,
        ),
        Case::guest("power_button_as_a_device_is_heard_by_the_guest", heard),
        Case::guest(
            "power_button_is_heard_from_the_backend_after_the_one_killed",
            heard_after_kills,
        ),
        Case::guest(
            "power_button_is_heard_from_the_program_it_was_upgraded_to",
            heard_after_upgrade,
        ),
        Case::guest(
            "power_button_without_a_driver_is_said_until_the_guest_loads_it",
            heard_later,
        ),
    ]
}

/// A VM whose guest, of no operating system, knows no button.
fn deaf(context: &Context, button: &str) -> Result<Vm> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let builder = context.vm("button").boots_no_os(&kernel);
    let mut vm = builder.arg("--power-button", button).start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    Ok(vm)
}

/// What `stop --json` answers.
fn stop(context: &Context, vm: &Vm) -> Result<Value> {
    let said = context.run_ok(&["stop", vm.name(), "--json"])?;
    serde_json::from_str(&said).with_context(|| said)
}

/// The process that serves the button.
fn backend(context: &Context, vm: &Vm) -> Result<Option<Pid>> {
    let all = inspect::processes(context, vm.name())?;
    match all.iter().any(|process| process.role == BACKEND) {
        true => inspect::process(context, vm.name(), BACKEND).map(Some),
        false => Ok(None),
    }
}

/// Kills the button's backend, and waits until another one serves.
fn kill_backend(context: &Context, vm: &Vm) -> Result<()> {
    let old = backend(context, vm)?.context("no backend")?;
    kill(old, Signal::SIGKILL)?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let now = context.run_ok(&["inspect", vm.name(), "--json"])?;
        let now: Value = serde_json::from_str(&now)?;
        let serves =
            |device: &Value| device["id"] == "power-button" && device["state"] == "serving";
        let is_served = now["devices"]
            .as_array()
            .is_some_and(|all| all.iter().any(serves));
        if is_served && backend(context, vm)?.is_some_and(|pid| pid != old) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("no other backend serves the button")
}

fn told(context: &Context) -> Result<()> {
    let mut vm = deaf(context, "auto")?;
    let button = stop(context, &vm)?["button"].clone();
    let expected = match std::env::consts::ARCH {
        "x86_64" => "acpi",
        _ => "virtio",
    };
    ensure!(button == expected, "stop says {button}");
    let said = context.run_ok(&["stop", vm.name()])?;
    ensure!(
        said.starts_with("asked the guest to power off by its"),
        "stop says {said:?}"
    );
    let forced = context.run_ok(&["stop", vm.name(), "--force", "--json"])?;
    ensure!(forced == "{}\n", "stop --force says {forced:?}");
    vm.expect_exit(0)
}

fn none(context: &Context) -> Result<()> {
    let mut vm = deaf(context, "none")?;
    ensure!(backend(context, &vm)?.is_none(), "there is a backend");
    let refused = context.run(&["stop", vm.name(), "--stop-timeout", "1"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        !refused.status.success() && said.contains("no power button: stop it by force"),
        "stop says {said:?}"
    );
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)
}

fn none_by_signal(context: &Context) -> Result<()> {
    let mut vm = deaf(context, "none")?;
    vm.signal(Signal::SIGTERM)?;
    vm.expect_exit(128 + 15)
}

fn no_driver(context: &Context) -> Result<()> {
    let mut vm = deaf(context, "virtio")?;
    let answer = stop(context, &vm)?;
    let warning = answer["warning"].as_str().unwrap_or_default();
    ensure!(answer["button"] == "virtio", "stop says {answer}");
    ensure!(warning.contains("no driver"), "stop says {answer}");
    let output = context.run(&["stop", vm.name(), "--stop-timeout", "1"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("virtio-input"), "stop says {said:?}");
    let warned = String::from_utf8_lossy(&output.stderr);
    ensure!(warned.contains("no driver"), "stop warns {warned:?}");
    vm.expect_exit(0)
}

fn replaced(context: &Context) -> Result<()> {
    let mut vm = deaf(context, "virtio")?;
    for _ in 0..3 {
        kill_backend(context, &vm)?;
    }
    context.run_ok(&["restart", vm.name(), "power-button", "--wait"])?;
    let program = context.program("input-backend").display().to_string();
    context.run_ok(&["upgrade", vm.name(), "power-button", "--binary", &program])?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)
}

/// A VM whose guest waits for the button that is a device.
fn listening(context: &Context) -> Result<Vm> {
    let builder = context.vm("button").boots(Stock::DEFAULT, "wait");
    let mut vm = builder
        .arg("--power-button", "virtio")
        .mem_mib(256)
        .start()?;
    vm.wait_for("GUEST waiting", PATIENCE)?;
    Ok(vm)
}

/// Presses the button, and expects the guest to hear it.
fn press(context: &Context, vm: &mut Vm) -> Result<()> {
    let answer = stop(context, vm)?;
    ensure!(answer["button"] == "virtio", "stop says {answer}");
    ensure!(answer["warning"].is_null(), "stop warns {answer}");
    vm.wait_for("GUEST button", PATIENCE)?;
    vm.expect_exit(0)
}

fn heard(context: &Context) -> Result<()> {
    let mut vm = listening(context)?;
    press(context, &mut vm)
}

fn heard_after_kills(context: &Context) -> Result<()> {
    let mut vm = listening(context)?;
    for _ in 0..3 {
        kill_backend(context, &vm)?;
    }
    let doomed = backend(context, &vm)?.context("no backend")?;
    kill(doomed, Signal::SIGSTOP)?;
    let answer = stop(context, &vm)?;
    ensure!(answer["button"] == "virtio", "stop says {answer}");
    // It has been told of the press, and does not live to tell the driver.
    kill(doomed, Signal::SIGKILL)?;
    vm.wait_for("GUEST button", PATIENCE)?;
    vm.expect_exit(0)
}

fn heard_after_upgrade(context: &Context) -> Result<()> {
    let mut vm = listening(context)?;
    let program = context.program("input-backend").display().to_string();
    context.run_ok(&["upgrade", vm.name(), "power-button", "--binary", &program])?;
    press(context, &mut vm)
}

fn heard_later(context: &Context) -> Result<()> {
    let builder = context.vm("button").boots(Stock::DEFAULT, "ask");
    let mut vm = builder
        .arg("--power-button", "virtio")
        .mem_mib(256)
        .start()?;
    vm.wait_for("GUEST ready", PATIENCE)?;
    let answer = stop(context, &vm)?;
    ensure!(answer["warning"].is_string(), "stop says {answer}");
    // The driver hears of that press once it is loaded, most likely before anything listens to it.
    vm.type_line("wait")?;
    vm.wait_for("GUEST waiting", PATIENCE)?;
    context.run(&["stop", vm.name()])?;
    vm.wait_for("GUEST button", PATIENCE)?;
    vm.expect_exit(0)
}
