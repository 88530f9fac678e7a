// SPDX-License-Identifier: Apache-2.0
//! What each process of a running VM may do, as /proc tells it, against a record that is kept.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Case, ONCE};
use crate::context::{Context, Skip};
use crate::machine::Machine;
use crate::network;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{PATIENCE, Stock, Vm, VmBuilder};

mod record;

use record::{NAMESPACES, record, user};

/// A host with control groups of version 1, and a guest that leaves its devices alone.
const NATIVE: &str = include_str!("audit/native.txt");
/// Any inner host, which has version 2 alone, and a guest that uses its devices.
const LAB: &str = include_str!("audit/lab.txt");
/// How long it may take until every process is in its control group.
const SETTLING: Duration = Duration::from_secs(5);

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native(
            "audit_of_each_process_equals_the_record_for_this_machine",
            native,
        )
        .only_on_x86("the record is of a host with control groups of version 1; the case under a guest has that of an inner host"),
        Case::guest(
            "audit_of_each_process_under_a_guest_equals_the_record_for_the_lab",
            lab,
        ),
        Case::native(
            "two_vms_side_by_side_share_no_user_and_no_namespace",
            side_by_side,
        )
        .not_on(Machine::SECOND, ONCE),
        Case::native(
            "descriptors_that_the_starter_left_open_are_in_no_process_of_the_vm",
            left_open,
        )
        .not_on(Machine::SECOND, ONCE),
        Case::native("console_descriptor_that_is_not_open_is_refused", console_fd)
            .not_on(Machine::SECOND, ONCE),
    ]
}

/// A VM to be, with a disk of each engine, a NIC and a button that is a device.
fn machine<'a>(context: &'a Context, name: &str) -> Result<VmBuilder<'a>> {
    let image = context.sparse_file(&format!("{name}.img"), 16 << 20)?;
    let threads = context.sparse_file(&format!("{name}-threads.img"), 16 << 20)?;
    let threads = format!("path={},engine=threads", threads.display());
    let vm = context.vm(name);
    Ok(vm
        .arg("--disk", format!("path={}", image.display()))
        .arg("--disk", threads)
        .arg("--net", format!("tap={name}"))
        .arg("--power-button", "virtio"))
}

/// One whose guest leaves all of that alone.
fn start_no_os(context: &Context, name: &str) -> Result<Vm> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let machine = machine(context, name)?.boots_no_os(&kernel);
    let mut vm = machine.start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    Ok(vm)
}

/// One whose guest uses all of it.
fn start_stock(context: &Context, name: &str) -> Result<Vm> {
    let machine = machine(context, name)?.mem_mib(128);
    let builder = machine.boots(Stock::DEFAULT, "net guest.modules=virtio_blk");
    let mut vm = builder.start()?;
    vm.wait_for("GUEST mac=", PATIENCE)?;
    vm.line()?;
    vm.sh("until [ -b /dev/vda ] && [ -b /dev/vdb ]; do sleep 0.1; done")?;
    vm.sh("cat /dev/vda /dev/vdb > /dev/null")?;
    Ok(vm)
}

fn native(context: &Context) -> Result<()> {
    if has_only_v2() {
        let why = "the record is of a host with control groups of version 1";
        return Err(Skip(why.to_owned()).into());
    }
    network::enter_empty()?;
    audit(context, start_no_os(context, "audited")?, NATIVE)
}

fn lab(context: &Context) -> Result<()> {
    if !has_only_v2() {
        let why = "the record is of a host without control groups of version 1";
        return Err(Skip(why.to_owned()).into());
    }
    network::enter_empty()?;
    let golden = of_machine(LAB, context.machine());
    audit(context, start_stock(context, "audited")?, &golden)
}

/// A record, as it is on a machine: a vmm that has the interrupt controller itself holds its vCPU twice,
/// to run it and to interrupt it.
fn of_machine(golden: &str, machine: Machine) -> String {
    match machine {
        Machine::Plic => golden.replace("kvm-vcpu:0*1 ", "kvm-vcpu:0*2 "),
        _ => golden.to_owned(),
    }
}

fn has_only_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The processes of a VM: role and number.
fn processes(context: &Context, vm: &Vm) -> Result<Vec<(String, u64)>> {
    roles(&context.run_ok(&["inspect", vm.name(), "--json"])?)
}

/// The same, of what `bulkhead inspect` says as JSON.
pub(super) fn roles(info: &str) -> Result<Vec<(String, u64)>> {
    let info: Value = serde_json::from_str(info)?;
    let listed = info["processes"].as_array().context("no processes")?;
    let one = |process: &Value| {
        let role = process["role"].as_str()?.to_string();
        Some((role, process["pid"].as_u64()?))
    };
    listed
        .iter()
        .map(|p| one(p).context("an odd process"))
        .collect()
}

fn audit(context: &Context, mut vm: Vm, golden: &str) -> Result<()> {
    let audited = compare(&processes(context, &vm)?, golden);
    vm.signal(nix::sys::signal::Signal::SIGHUP)?;
    vm.wait_exit(PATIENCE)?;
    audited
}

/// Holds what processes may do, once they have settled, against what is kept of it.
pub(super) fn compare(processes: &[(String, u64)], golden: &str) -> Result<()> {
    let begun = Instant::now();
    let mut found = record(processes)?;
    while found != golden && begun.elapsed() < SETTLING {
        std::thread::sleep(Duration::from_millis(50));
        found = record(processes)?;
    }
    println!("--- found\n{found}--- kept\n{golden}---");
    for (found, kept) in found.lines().zip(golden.lines()) {
        ensure!(found == kept, "{found:?} is not {kept:?}");
    }
    ensure!(
        found == golden,
        "there is more, or less, than the record says"
    );
    Ok(())
}

fn side_by_side(context: &Context) -> Result<()> {
    network::enter_empty()?;
    let mut a = start_no_os(context, "tenant-a")?;
    let mut b = start_no_os(context, "tenant-b")?;
    let (of_a, of_b) = (processes(context, &a)?, processes(context, &b)?);

    let seen = |all: &[(String, u64)]| -> Result<BTreeSet<String>> {
        let mut seen = BTreeSet::new();
        for (_, pid) in all.iter().skip(1) {
            seen.insert(format!("user {}", user(*pid)?));
            for kind in NAMESPACES {
                let link = fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
                seen.insert(link.display().to_string());
            }
        }
        Ok(seen)
    };
    let (seen_a, seen_b) = (seen(&of_a)?, seen(&of_b)?);

    // From where a process of one stands: its user, its pid namespace, no capability.
    let (_, vmm) = of_a.get(2).context("no vmm")?;
    let (_, other) = of_b.get(2).context("no vmm")?;
    let as_vmm = |pid: &str| {
        let user = user(*vmm)?.to_string();
        let mut command = Command::new("nsenter");
        command.args([
            "--pid",
            "--target",
            &vmm.to_string(),
            "setpriv",
            "--reuid",
            &user,
        ]);
        command.args(["--regid", &user, "--clear-groups", "--bounding-set=-all"]);
        command.args(["sh", "-c", "kill -0 $0", pid]);
        anyhow::Ok(command.status()?.success())
    };
    let reaches_itself = as_vmm("1")?;
    let reaches_other = as_vmm(&other.to_string())?;

    for vm in [&mut a, &mut b] {
        vm.signal(nix::sys::signal::Signal::SIGHUP)?;
        vm.wait_exit(PATIENCE)?;
    }
    ensure!(seen_a.is_disjoint(&seen_b), "{seen_a:?} and {seen_b:?}");
    ensure!(seen_a.len() > NAMESPACES.len(), "hardly anything was seen");
    ensure!(
        reaches_itself,
        "a process of the same VM and user cannot be signalled"
    );
    ensure!(!reaches_other, "the other VM's vmm can be signalled");
    Ok(())
}

/// This command, by a shell that leaves a file open at numbers below and above all that we use.
fn leaving_open(context: &Context, file: &Path, command: &Command) -> Command {
    let mut shell = Command::new("bash");
    context.prepare(&mut shell);
    shell.args(["-c", "exec 3<\"$0\" 57<\"$0\" 200<\"$0\"; exec \"$@\""]);
    shell.arg(file).arg(command.get_program());
    shell.args(command.get_args());
    shell
}

fn left_open(context: &Context) -> Result<()> {
    network::enter_empty()?;
    let secret = context.file("secret", b"of the starter alone")?;
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let command = machine(context, "heir")?.boots_no_os(&kernel).command()?;
    let mut command = leaving_open(context, &secret, &command);
    let mut vm = Vm::spawn(context.name_of("heir"), &mut command)?;
    vm.wait_for("hello\n", PATIENCE)?;

    let mut heirs = Vec::new();
    let processes = processes(context, &vm)?;
    for (role, pid) in &processes {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let fd = entry?;
            if fs::read_link(fd.path()).is_ok_and(|link| link == secret) {
                heirs.push((role, fd.file_name()));
            }
        }
    }

    vm.signal(nix::sys::signal::Signal::SIGHUP)?;
    vm.wait_exit(PATIENCE)?;
    ensure!(processes.len() >= 6, "not all are there: {processes:?}");
    ensure!(heirs.is_empty(), "the starter's file is in {heirs:?}");
    Ok(())
}

/// A number that the jailer itself would give to something of its own.
fn console_fd(context: &Context) -> Result<()> {
    let kernel = context.no_os_kernel(&NoOsKernel::new().power_off())?;
    let config = serde_json::json!({ "kernel": kernel, "mem": "16M", "console": "socket" });
    let config = context.file("vm.json", config.to_string().as_bytes())?;
    for (number, said) in [
        ("3", "--console-fd 3: file descriptor 3 is not open"),
        ("77", "--console-fd 77: file descriptor 77 is not open"),
        (
            "0",
            "--console-fd \"0\": must be the number of a file descriptor",
        ),
    ] {
        let mut command = Command::new(context.program("jailer"));
        context.prepare(&mut command);
        command.arg("--config").arg(&config);
        let output = command.args(["--console-fd", number]).output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        println!("{told}");
        ensure!(!output.status.success() && told.contains(said), "{told}");
    }
    let file = context.file("file", b"")?;
    let mut command = Command::new(context.program("jailer"));
    command
        .arg("--config")
        .arg(&config)
        .args(["--console-fd", "57"]);
    let output = leaving_open(context, &file, &command).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(
        told.contains("--console-fd 57: is not a stream socket"),
        "{told}"
    );
    Ok(())
}
