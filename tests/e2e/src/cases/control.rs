// SPDX-License-Identifier: Apache-2.0
//! Commands on a running VM: ps, inspect, console, stop, and running detached.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::Case;
use crate::context::Context;
use crate::no_os_kernel::NoOsKernel;
use crate::transcript::Transcript;
use crate::vm::{PATIENCE, Vm};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("ps_with_a_running_vm_lists_it_until_it_ends", ps),
        Case::native("inspect_of_a_running_vm_tells_its_spec", inspect),
        Case::native("stop_force_ends_a_deaf_vm", stop_force),
        Case::native("stop_of_an_unknown_vm_names_it", stop_unknown),
        Case::native("run_detached_returns_and_the_vm_goes_on", detached),
        Case::native("console_of_a_detached_vm_answers", console),
        Case::native("console_to_a_file_holds_what_the_guest_said", console_file),
        Case::native("check_of_a_good_spec_exits_0", check),
        Case::native("schema_is_json", schema),
    ]
}

fn spinning(context: &Context) -> Result<Vm> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let mut vm = context.vm("held").boots_no_os(&kernel).start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    Ok(vm)
}

fn ps(context: &Context) -> Result<()> {
    let mut vm = spinning(context)?;

    let table = context.run_ok(&["ps"])?;
    let json: Value = serde_json::from_str(&context.run_ok(&["ps", "--json"])?)?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.wait_exit(PATIENCE)?;
    let after = context.run_ok(&["ps"])?;

    ensure!(table.contains(vm.name()), "ps does not list it");
    ensure!(
        json.to_string().contains(vm.name()),
        "ps --json does not list it"
    );
    ensure!(!after.contains(vm.name()), "ps still lists it");
    Ok(())
}

fn inspect(context: &Context) -> Result<()> {
    let mut vm = spinning(context)?;

    let json: Value = serde_json::from_str(&context.run_ok(&["inspect", vm.name(), "--json"])?)?;
    let text = context.run_ok(&["inspect", vm.name()])?;
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.wait_exit(PATIENCE)?;

    ensure!(
        json["name"] == vm.name(),
        "inspect --json names {}",
        json["name"]
    );
    ensure!(
        json["state"] == "running",
        "inspect --json says {}",
        json["state"]
    );
    ensure!(
        json["spec"]["cpus"] == 1,
        "inspect --json has the spec {}",
        json["spec"]
    );
    ensure!(
        text.contains("no-os-kernel"),
        "inspect does not name the kernel"
    );
    Ok(())
}

fn stop_force(context: &Context) -> Result<()> {
    let mut vm = spinning(context)?;
    let started = Instant::now();

    context.run_ok(&["stop", vm.name(), "--force"])?;

    vm.wait_exit(Duration::from_secs(5))?;
    ensure!(
        started.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        started.elapsed()
    );
    Ok(())
}

fn stop_unknown(context: &Context) -> Result<()> {
    let output = context.run(&["stop", "no-such-vm"])?;

    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(4),
        "it exited with {}",
        output.status
    );
    ensure!(
        said.lines().count() == 1 && said.contains("no-such-vm"),
        "it said {said:?}"
    );
    Ok(())
}

/// Starts a VM detached, which echoes its console until a `q`.
fn start_detached(context: &Context) -> Result<String> {
    let kernel = NoOsKernel::new().echo_until_q().power_off();
    let builder = context
        .vm("apart")
        .boots_no_os(&kernel)
        .console("socket")
        .flag("--detach");
    let output = builder
        .command()?
        .output()
        .context("bulkhead run --detach")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "it exited with {}: {said}",
        output.status
    );
    Ok(context.name_of("apart"))
}

fn detached(context: &Context) -> Result<()> {
    let name = start_detached(context)?;

    let table = context.run_ok(&["ps"])?;
    context.run_ok(&["stop", &name, "--force"])?;
    wait_gone(context, &name)?;

    ensure!(table.contains(&name), "ps does not list it");
    Ok(())
}

fn console(context: &Context) -> Result<()> {
    let name = start_detached(context)?;
    let mut command = context.bulkhead();
    command
        .args(["console", &name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("bulkhead console")?;
    let screen = Transcript::of(child.stdout.take().context("no standard output")?);
    let mut keyboard = child.stdin.take().context("no standard input")?;

    std::io::Write::write_all(&mut keyboard, b"are you there")?;
    let answered = screen.wait_for("are you there", 0, PATIENCE);
    std::io::Write::write_all(&mut keyboard, b"q")?;
    wait_gone(context, &name)?;
    drop(keyboard);
    let status = child.wait()?;

    answered?;
    ensure!(status.success(), "bulkhead console ended with {status}");
    Ok(())
}

fn wait_gone(context: &Context, name: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while context.run_ok(&["ps"])?.contains(name) {
        ensure!(Instant::now() < deadline, "{name} is still there");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn console_file(context: &Context) -> Result<()> {
    let path = context.dir().join("console.txt");
    let kernel = NoOsKernel::new().say("written down\n").power_off();
    let builder = context.vm("filed").boots_no_os(&kernel);

    let mut vm = builder
        .console(&format!("file={}", path.display()))
        .start()?;
    vm.expect_exit(0)?;

    let said = std::fs::read_to_string(&path).context("the console's file")?;
    ensure!(said == "written down\n", "the file holds {said:?}");
    Ok(())
}

fn check(context: &Context) -> Result<()> {
    let kernel = context.no_os_kernel(&NoOsKernel::new().power_off())?;
    let spec = format!(
        "{{\"kernel\": {:?}, \"cpus\": 2}}",
        kernel.display().to_string()
    );
    let file = context.file("vm.json", spec.as_bytes())?;

    context
        .run_ok(&["check", &file.display().to_string()])
        .map(drop)
}

fn schema(context: &Context) -> Result<()> {
    let schema: Value = serde_json::from_str(&context.run_ok(&["schema"])?)?;

    ensure!(
        schema["properties"]["kernel"].is_object(),
        "the schema describes no kernel"
    );
    Ok(())
}
