// SPDX-License-Identifier: Apache-2.0
//! The program `cloud-hypervisor` with real guests, asked byte for byte as its clients ask: libvirt
//! (a listening socket and a named pipe, descriptors beside the request, one kept connection) and those
//! that bind nothing themselves.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use host::tap;
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use super::Case;
use crate::context::Context;
use crate::inspect::process;
use crate::network::enter_empty;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Vm};

mod bad_input;
mod client;
mod program;

use client::Client;
use program::Program;

/// Why other architectures leave the cases to x86_64.
const SAME: &str =
    "the program drives the jailer by its document and its API, which are the same everywhere";

pub(super) fn cases() -> Vec<Case> {
    let cases = vec![
        Case::native("dialect_of_libvirt_from_create_to_shutdown", libvirt),
        Case::native("dialect_ends_a_vm_that_libvirt_lets_go", let_go),
        Case::native("dialect_of_other_clients_from_ping_to_exit", others),
        Case::native("dialect_boots_the_vm_of_its_command_line", command_line),
        Case::native("dialect_killed_takes_its_vm_along", killed),
        Case::native("dialect_tells_of_a_vm_that_was_killed_or_panicked", deaths),
        Case::native(
            "dialect_bad_input_is_refused_and_harms_nobody",
            bad_input::case,
        ),
    ];
    let cases = cases.into_iter();
    cases.map(|case| case.only_on_x86(SAME)).collect()
}

/// A guest that says `up`, echoes what is typed, and powers off after a `q`.
fn guest(context: &Context) -> Result<String> {
    let kernel = NoOsKernel::new().say("up\n").echo_until_q().power_off();
    Ok(context.no_os_kernel(&kernel)?.display().to_string())
}

/// Reads a pseudo-terminal until it has shown `wanted`.
fn shows(pty: &mut File, wanted: &str) -> Result<()> {
    let (begun, mut seen, mut chunk) = (Instant::now(), Vec::new(), [0; 256]);
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        ensure!(
            begun.elapsed() < PATIENCE,
            "{:?}",
            String::from_utf8_lossy(&seen)
        );
        let len = pty.read(&mut chunk)?;
        seen.extend_from_slice(&chunk[..len]);
    }
    Ok(())
}

fn open_pty(info: &Value) -> Result<File> {
    let path = info["config"]["serial"]["file"]
        .as_str()
        .context("no pty")?;
    Ok(File::options().read(true).write(true).open(path)?)
}

/// What libvirt 11.3 sends until a domain with two taps runs, in its order.
fn start_as_libvirt(context: &Context, program: &Program) -> Result<Client> {
    let mut raw = program.connect()?;
    raw.done(
        "vm.create",
        &json!({
            "serial": {"mode": "Pty"}, "cpus": {"boot_vcpus": 1, "max_vcpus": 2},
            "memory": {"size": 64 << 20},
            "payload": {"kernel": guest(context)?, "cmdline": "console=ttyS0"},
        }),
    )?;
    for (name, pairs) in [("net_0", 1), ("net_1", 2)] {
        let queues = tap::open(name, pairs)?;
        let mac = format!("52:54:00:00:00:0{pairs}");
        let net = json!({"id": name, "mac": mac, "num_queues": 2 * pairs});
        raw.done_with("vm.add-net", &net, &queues)?;
    }
    let mut curl = program.connect()?;
    curl.done("vm.boot", &Value::Null)?;
    Ok(curl)
}

fn libvirt(context: &Context) -> Result<()> {
    enter_empty()?;
    let mut program = Program::of_libvirt(context, "domain")?;
    let mut curl = start_as_libvirt(context, &program)?;
    let mut pty = open_pty(&curl.info()?)?;
    shows(&mut pty, "up")?;
    let listed = context.run_quietly(&["inspect", program.vm(), "--json"])?;
    let listed: Value = serde_json::from_slice(&listed.stdout)?;
    ensure!(listed["spec"]["cgroup"] == "inherit", "it is {listed}");

    curl.done("vm.pause", &Value::Null)?;
    ensure!(curl.info()?["state"] == "Paused", "it is not paused");
    curl.done("vm.resume", &Value::Null)?;
    ensure!(curl.info()?["state"] == "Running", "it does not run");
    let counters = curl.ask("GET", "vm.counters", &Value::Null)?.json()?;
    for net in ["net_0", "net_1"] {
        ensure!(counters[net]["rx_bytes"].is_u64(), "it is {counters}");
    }
    // virsh reboot asks the guest, which takes its time.
    curl.done("vm.reboot", &Value::Null)?;
    pty.write_all(b"q")?;
    program.wait_for_event("vm rebooted")?;
    let mut pty = open_pty(&curl.info()?)?;
    shows(&mut pty, "up")?;
    // So does virsh shutdown.
    curl.done("vm.shutdown", &Value::Null)?;
    ensure!(curl.info()?["state"] == "Running", "it was not asked");
    pty.write_all(b"q")?;
    program.expect_end(0)?;
    let told = program.events()?;
    for event in [
        "vmm starting",
        "vm booting",
        "vm booted",
        "vm paused",
        "vm resumed",
    ] {
        let is_told = told.iter().any(|one| one == event);
        ensure!(is_told, "{event:?} is not among {told:?}");
    }
    let last = ["vm shutdown", "vm deleted", "vmm shutdown"];
    ensure!(told.ends_with(&last.map(str::to_owned)), "it is {told:?}");
    program.left_nothing()
}

/// `virsh destroy` of libvirt before 11.8: it kills nothing, and removes socket and pipe.
fn let_go(context: &Context) -> Result<()> {
    let mut program = Program::of_libvirt(context, "destroyed")?;
    let mut client = program.connect()?;
    client.done(
        "vm.create",
        &json!({"payload": {"kernel": guest(context)?}}),
    )?;
    client.done("vm.boot", &Value::Null)?;
    fs::remove_file(program.socket())?;
    program.expect_end(0)?;
    program.left_nothing()
}

/// Clients that only know where the socket is to be: Kata, the generated ones.
fn others(context: &Context) -> Result<()> {
    let image = context.sparse_file("image", 1 << 20)?;
    let mut program = Program::at_a_path(context, "plain")?;
    let mut client = program.connect()?;
    let ping = client.ask("GET", "vmm.ping", &Value::Null)?.json()?;
    ensure!(ping["pid"] == program.pid().as_raw(), "the ping is {ping}");
    client.done("vm.create", &json!({
        "payload": {"kernel": guest(context)?}, "memory": {"size": 64 << 20, "shared": true, "hotplug_size": 1 << 30},
        "disks": [{"path": image, "image_type": "Raw"}], "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "Pty"}, "console": {"mode": "Off"}, "platform": {"num_pci_segments": 2},
    }))?;
    ensure!(client.info()?["state"] == "Created", "it is not created");
    for round in 0..2 {
        client.done("vm.boot", &Value::Null)?;
        let info = client.info()?;
        ensure!(info["state"] == "Running", "round {round}: {info}");
        ensure!(
            info["config"]["disks"][0]["id"] == "_disk0",
            "round {round}: {info}"
        );
        shows(&mut open_pty(&info)?, "up")?;
        context.run_ok(&["restart", program.vm(), "disk0", "--wait"])?;
        let blk = process(context, program.vm(), "blk disk0")?;
        kill(blk, Signal::SIGKILL)?;
        let counters = client.ask("GET", "vm.counters", &Value::Null)?.json()?;
        ensure!(
            counters["_disk0"]["read_bytes"].is_u64(),
            "the counters are {counters}"
        );
        // It resets a guest at once.
        client.done("vm.reboot", &Value::Null)?;
        program.wait_for_event("vm rebooted")?;
        client.done("vm.shutdown", &Value::Null)?;
        ensure!(client.info()?["state"] == "Created", "it is not shut down");
        program.left_nothing()?;
    }
    client.done("vm.delete", &Value::Null)?;
    let gone = client.ask("GET", "vm.info", &Value::Null)?;
    ensure!(gone.status == 404, "it is {gone:?}");
    client.done("vmm.shutdown", &Value::Null)?;
    program.expect_end(0)?;
    ensure!(!program.socket().exists(), "its socket is left");
    program.left_nothing()
}

fn command_line(context: &Context) -> Result<()> {
    let mut command = program::command(context);
    let image = context.sparse_file("image", 1 << 20)?;
    command.arg("--kernel").arg(guest(context)?);
    command.args(["--cpus", "boot=1,max=2", "--memory", "size=64M,shared=on"]);
    command
        .arg("--disk")
        .arg(format!("path={},readonly=on", image.display()));
    command.args([
        "--serial",
        "tty",
        "--console",
        "off",
        "--rng",
        "src=/dev/urandom",
    ]);
    let mut vm = Vm::spawn(context.name_of("typed"), &mut command)?;
    vm.wait_for("up", PATIENCE)?;
    vm.type_text("hello")?;
    vm.wait_for("hello", PATIENCE)?;
    vm.type_text("q")?;
    vm.expect_exit(0)
}

/// The kernel tells the jailer, which ends the VM and cleans up.
fn killed(context: &Context) -> Result<()> {
    let mut program = Program::at_a_path(context, "orphan")?;
    let mut client = program.connect()?;
    client.done(
        "vm.create",
        &json!({"payload": {"kernel": guest(context)?}}),
    )?;
    client.done("vm.boot", &Value::Null)?;
    let family = procs::below(program.pid());
    ensure!(
        family.len() >= 3,
        "jailer, supervisor and vmm are {family:?}"
    );
    program.kill(Signal::SIGKILL)?;
    let begun = Instant::now();
    // They are no longer below this process: the process that adopts orphans collects them.
    let lives =
        |one: &procs::Process| family.iter().any(|of| of.pid == one.pid) && !one.is_zombie();
    while procs::all().iter().any(lives) || program.left_no_state().is_err() {
        ensure!(begun.elapsed() < PATIENCE, "some of {family:?} are left");
        std::thread::sleep(Duration::from_millis(10));
    }
    // The reason stays until it is asked for.
    let told = context.run_ok(&["wait", program.vm()])?;
    ensure!(
        told.trim() == "signal",
        "it is said to have ended by {told:?}"
    );
    program.left_nothing()
}

fn deaths(context: &Context) -> Result<()> {
    let ends = ["vm shutdown", "vm deleted", "vmm shutdown"].map(str::to_owned);
    let mut program = Program::of_libvirt(context, "shot")?;
    let mut client = program.connect()?;
    client.done(
        "vm.create",
        &json!({"payload": {"kernel": guest(context)?}}),
    )?;
    client.done("vm.boot", &Value::Null)?;
    let jailer = process(context, program.vm(), "jailer")?;
    kill(jailer, Signal::SIGKILL)?;
    program.expect_end(1)?;
    let told = program.events()?;
    ensure!(told.ends_with(&ends), "the events are {told:?}");
    program.left_nothing()?;

    let panics = context.no_os_kernel(&NoOsKernel::new().say("up\n").panic())?;
    let mut program = Program::of_libvirt(context, "panicked")?;
    let mut client = program.connect()?;
    client.done("vm.create", &json!({"payload": {"kernel": panics}}))?;
    client.ask("PUT", "vm.boot", &Value::Null)?;
    program.expect_end(1)?;
    let told = program.events()?;
    ensure!(told.ends_with(&ends), "the events are {told:?}");
    program.left_nothing()
}
