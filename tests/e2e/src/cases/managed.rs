// SPDX-License-Identifier: Apache-2.0
//! What a manager of VMs does and looks at: names of threads, reboots, the console's socket, and logs.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::Case;
use crate::context::Context;
use crate::inspect::process;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{PATIENCE, Vm};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("vcpus_are_threads_with_their_numbers", threads),
        Case::native("reboot_asked_for_waits_for_the_power_off", reboot),
        Case::native("reboot_by_force_resets_a_deaf_guest_and_its_disk", reset),
        Case::native(
            "console_at_a_path_goes_when_the_jailer_is_killed",
            console_swept,
        ),
        Case::native("logs_are_rotated_and_followed_to_the_end", logs),
        Case::native(
            "log_of_json_is_read_by_programs_and_shown_to_people",
            json_log,
        ),
    ]
}

fn threads(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut vm = context.vm("many").boots_no_os(&kernel).cpus(3).start()?;
    vm.wait_for("hello\n", PATIENCE)?;

    let vmm = process(context, vm.name(), "vmm")?;
    let mut vcpus = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{vmm}/task"))? {
        let name = fs::read_to_string(task?.path().join("comm"))?;
        if name.starts_with("vcpu") {
            vcpus.insert(name.trim().to_owned());
        }
    }
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)?;

    let wanted = ["vcpu0", "vcpu1", "vcpu2"].map(str::to_owned);
    ensure!(vcpus == BTreeSet::from(wanted), "its threads are {vcpus:?}");
    Ok(())
}

/// A log that becomes longer than it may be is shown from its beginning, and followed until the VM has
/// ended.
fn logs(context: &Context) -> Result<()> {
    const FILLED_BYTES: usize = 5 << 20;
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut vm = context.vm("logs").boots_no_os(&kernel).start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    let mut command = context.bulkhead();
    command.args(["logs", vm.name(), "--follow", "--json"]);
    let follower = command.stdout(Stdio::piped()).spawn()?;
    let follower = std::thread::spawn(|| follower.wait_with_output());

    let state = context.state_dir("logs");
    let mut log = fs::File::options().append(true).open(state.join("log"))?;
    let line = format!("{}\n", "x".repeat(1023));
    log.write_all(line.repeat(FILLED_BYTES / 1024).as_bytes())?;
    let begun = Instant::now();
    let len = |name: &str| Ok::<_, anyhow::Error>(fs::metadata(state.join(name))?.len());
    while len("log.old")? < FILLED_BYTES as u64 || len("log")? >= FILLED_BYTES as u64 {
        ensure!(begun.elapsed() < PATIENCE, "it is not rotated");
        std::thread::sleep(Duration::from_millis(50));
    }
    let shown = context.run_quietly(&["logs", vm.name()])?;
    let shown = String::from_utf8(shown.stdout)?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)?;
    let followed = follower.join().ok().context("the follower")??;

    ensure!(
        followed.status.success(),
        "it ended with {}",
        followed.status
    );
    let followed = String::from_utf8(followed.stdout)?;
    let mut vmms = 0;
    for line in followed.lines() {
        let entry: Value = serde_json::from_str(line)?;
        let told = entry["message"].as_str().context("no message")?;
        vmms += u32::from(told.starts_with("started a vmm"));
    }
    ensure!(vmms == 1, "the start was told {vmms} times");
    let filled = |text: &str| {
        text.lines()
            .filter(|line| line.contains("xxxxxxxx"))
            .count()
    };
    for text in [&shown, &followed] {
        ensure!(text.contains("started a vmm"), "its beginning is lost");
        ensure!(text.contains("the log was rotated"), "its end is lost");
        let lines = filled(text);
        ensure!(lines == FILLED_BYTES / 1024, "{lines} lines were shown");
    }
    Ok(())
}

/// Every process writes objects, also the next backend of a disk.
fn json_log(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let image = context.dir().join("image");
    fs::File::create(&image)?.set_len(1 << 20)?;
    let mut vm = context
        .vm("objects")
        .boots_no_os(&kernel)
        .arg("--disk", format!("path={}", image.display()))
        .arg("--log-format", "json")
        .start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    context.run_ok(&["restart", vm.name(), "disk0", "--wait"])?;
    let log = fs::read_to_string(context.state_dir("objects").join("log"))?;
    let objects = context.run_ok(&["logs", vm.name(), "--json"])?;
    let text = context.run_ok(&["logs", vm.name()])?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)?;

    let mut processes = BTreeSet::new();
    for (line, shown) in log.lines().zip(objects.lines()) {
        let entry: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(entry["fields"]["vm_id"] == vm.name(), "it is {line}");
        ensure!(
            entry["time"].is_string() && entry["level"].is_string(),
            "it is {line}"
        );
        let process = entry["process"].as_str().context("no process")?;
        processes.insert(process.to_owned());
        ensure!(
            serde_json::from_str::<Value>(shown)? == entry,
            "it is shown as {shown}"
        );
    }
    for process in ["supervisor", "vmm", "blk"] {
        ensure!(processes.contains(process), "{processes:?} have written");
    }
    let serving = text.lines().filter(|line| {
        line.starts_with('[') && line.contains("] blk INFO serving device_id=disk0 vm_id=")
    });
    ensure!(serving.count() == 2, "it is shown as {text}");
    Ok(())
}

fn info(context: &Context, vm: &Vm) -> Result<Value> {
    let text = context.run_ok(&["inspect", vm.name(), "--json"])?;
    serde_json::from_str(&text).context("inspect --json")
}

fn reboot(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("up\n").echo_until_q().power_off();
    let builder = context.vm("anew").boots_no_os(&kernel);
    let mut vm = builder.arg("--on-reboot", "exit").start()?;
    vm.wait_for("up\n", PATIENCE)?;

    context.run_ok(&["reboot", vm.name()])?;
    let asked = info(context, &vm)?;
    // The guest has no driver for the button, and takes its time.
    vm.type_text("q")?;
    vm.wait_for("up\n", PATIENCE)?;
    context.run_ok(&["wait", vm.name(), "--for", "running"])?;
    let anew = info(context, &vm)?;
    context.run_ok(&["wait", vm.name(), "--for", "console=^up$"])?;
    vm.type_text("q")?;
    vm.expect_exit(0)?;

    let of = |info: &Value| (info["state"].clone(), info["reboots"].clone());
    ensure!(
        of(&asked) == ("stopping".into(), 0.into()),
        "it was {asked}"
    );
    ensure!(of(&anew) == ("running".into(), 1.into()), "it is {anew}");
    Ok(())
}

fn reset(context: &Context) -> Result<()> {
    let image = context.sparse_file("disk.img", 16 << 20)?;
    let kernel = NoOsKernel::new().say("up\n").spin();
    let builder = context.vm("deaf").boots_no_os(&kernel);
    let disk = format!("path={}", image.display());
    let mut vm = builder.arg("--disk", disk).cpus(2).start()?;
    vm.wait_for("up\n", PATIENCE)?;
    let before = process(context, vm.name(), "vmm")?;

    for _ in 0..6 {
        context.run_ok(&["reboot", vm.name(), "--force"])?;
        vm.wait_for("up\n", PATIENCE)?;
        context.run_ok(&["wait", vm.name(), "--for", "running"])?;
    }

    let after = process(context, vm.name(), "vmm")?;
    let info = info(context, &vm)?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)?;
    ensure!(before != after, "its vmm is still {before}");
    ensure!(info["reboots"] == 6, "{} reboots", info["reboots"]);
    let disk = &info["devices"][0];
    ensure!(disk["state"] == "serving", "its disk is {disk}");
    Ok(())
}

fn console_swept(context: &Context) -> Result<()> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let path = context.dir().join("console");
    let builder = context.vm("lost").boots_no_os(&kernel);
    let at = format!("socket={}", path.display());
    let started = builder.console(&at).flag("--detach").command()?.status()?;
    ensure!(started.success(), "bulkhead run --detach: {started}");
    let name = context.name_of("lost");
    context.run_ok(&["wait", &name, "--for", "console=hello"])?;
    let jailer = process(context, &name, "jailer")?;

    kill(jailer, Signal::SIGKILL)?;
    let there = path.exists();
    context.run(&["wait", &name])?;

    ensure!(there, "it was gone before anybody swept it");
    ensure!(!path.exists(), "it is still there");
    Ok(())
}
