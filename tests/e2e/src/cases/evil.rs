// SPDX-License-Identifier: Apache-2.0
//! Hostile neighbours: guests that hammer every register, backends that lie, stall, steal and flood.
//! What they do to each other is theirs; the vmm, the other devices and the supervisor go on.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Case, ONCE};
use crate::context::Context;
use crate::machine::Machine;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Stock, Vm};

/// Accesses of a hammering guest; each is an exit.
const ACCESSES: u32 = 8_000;
/// By so much fewer they are where every exit is emulated.
const EMULATED: u32 = 16;
const SOAK_ACCESSES: u32 = 200_000;
/// What the vmm may have of its own while a guest hammers.
const VMM_ANON_MAX_KIB: u64 = 8 << 10;
const SOAK: Duration = Duration::from_secs(30 * 60);
/// Why some malice is left to x86_64, where it needs no emulation.
const TIMED: &str = "it measures how long accesses to registers take, which emulation stretches";

/// Malice that needs no guest: the case, and what `hostile` is told.
const MALICE: [(&str, &str); 6] = [
    (
        "evil_backend_with_wrong_replies_is_refused",
        "replies --count 8000",
    ),
    (
        "evil_backend_with_hundreds_of_descriptors_leaks_none",
        "replies --kind descriptors --count 3000",
    ),
    (
        "evil_backend_that_falls_silent_is_given_up",
        "silence --every 7",
    ),
    (
        "evil_backend_abusing_what_it_shares_harms_nobody",
        "sharing --seconds 5",
    ),
    (
        "evil_driver_whose_rings_change_while_they_are_read_harms_nobody",
        "rings --backend BIN/blk-backend --dir DIR --seconds 5",
    ),
    ("evil_requests_to_a_disks_io_uring_are_refused", "uring"),
];

/// The same, for long.
const LONG_MALICE: [(&str, &str); 6] = [
    (
        "evil_backend_with_a_million_wrong_replies_is_refused",
        "replies --count 1000000",
    ),
    (
        "evil_backend_with_descriptors_100000_times_leaks_none",
        "replies --kind descriptors --count 100000",
    ),
    (
        "evil_backend_silent_at_any_step_is_given_up",
        "silence --every 1",
    ),
    (
        "evil_backend_abusing_for_long_harms_nobody",
        "sharing --seconds 300",
    ),
    (
        "evil_driver_whose_rings_change_for_long_harms_nobody",
        "rings --backend BIN/blk-backend --dir DIR --seconds 600",
    ),
    (
        "evil_requests_to_a_disks_io_uring_a_million_times_are_refused",
        "uring --count 1000000",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let short = MALICE.iter().map(|(name, args)| malice(name, args));
    let long = LONG_MALICE.iter();
    let mut cases: Vec<Case> = short
        .chain(long.map(|(name, args)| malice(name, args).soak(SOAK)))
        .collect();
    for seed in 1..=3 {
        let name = format!("evil_guest_that_hammers_registers_harms_nobody_{seed}");
        cases.push(Case::native(name, move |context| {
            let less = match context.machine() {
                Machine::X86 => 1,
                _ => EMULATED,
            };
            hammers(context, seed, ACCESSES / less)
        }));
    }
    let long =
        |context: &Context| (10..20).try_for_each(|seed| hammers(context, seed, SOAK_ACCESSES));
    cases.extend([
        Case::native("evil_guest_that_hammers_for_long_harms_nobody", long).soak(SOAK),
        Case::guest(
            "evil_backends_leave_the_disk_beside_them_alone",
            beside_a_disk,
        )
        .not_on(Machine::SECOND, ONCE),
    ]);
    cases
}

/// One kind of malice. `BIN` and `DIR` in what `hostile` is told become the case's own.
fn malice(name: &'static str, arguments: &'static str) -> Case {
    let case = Case::native(name, move |context| {
        let mut command = Command::new(context.program("hostile"));
        let known = [("BIN", context.program("")), ("DIR", context.dir().into())];
        let arguments = known
            .iter()
            .fold(arguments.to_owned(), |text, (name, path)| {
                text.replace(name, &path.display().to_string())
            });
        let output = command
            .args(arguments.split(' '))
            .output()
            .context("hostile")?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success(),
            "hostile {arguments}: {}",
            output.status
        );
        Ok(())
    });
    match arguments.split(' ').next() {
        Some("rings" | "uring") => case.not_on(Machine::SECOND, ONCE),
        _ => case.only_on_x86(TIMED),
    }
}

/// A guest with two disks writes rubbish to every register of the machine. It ends by itself or by
/// what it did to its own processor, and nothing else does.
fn hammers(context: &Context, seed: u32, accesses: u32) -> Result<()> {
    let image = context.sparse_file("image", 1 << 20)?;
    let other = context.sparse_file("other", 1 << 20)?;
    let kernel = NoOsKernel::new().hammer(seed, accesses).power_off();
    let builder = context.vm("hammer").boots_no_os(&kernel);
    let disk = |path: &Path| format!("path={},queues=2", path.display());
    let mut vm = builder
        .arg("--disk", disk(&image))
        .arg("--disk", disk(&other))
        .arg("--on-reboot", "exit")
        .start()?;

    let log_file = context.state_dir("hammer").join("log");
    let (status, most_kib, log) = watch(&mut vm, &log_file)?;

    println!("seed {seed}: exit {status}, vmm at most {most_kib} KiB\n{log}");
    ensure!(!log.contains("panicked"), "somebody panicked");
    ensure!(log.contains("Running"), "it never got a device to run");
    // It came to its end, or its processor met an interrupt that it could not take.
    ensure!(matches!(status, 0 | 3), "exit {status}");
    ensure!(most_kib <= VMM_ANON_MAX_KIB, "the vmm had {most_kib} KiB");
    Ok(())
}

/// Waits for the end; returns the exit status, the most anonymous memory the vmm was seen with, and the
/// log as it was seen last.
fn watch(vm: &mut Vm, log_file: &Path) -> Result<(i32, u64, String)> {
    let (begun, mut most_kib, mut log) = (Instant::now(), 0, String::new());
    loop {
        if let Ok(status) = vm.wait_exit(Duration::from_millis(50)) {
            return Ok((status, most_kib, log));
        }
        ensure!(begun.elapsed() < SOAK, "it did not end");
        if let Ok(text) = std::fs::read(log_file) {
            log = String::from_utf8_lossy(&text).into_owned();
        }
        for process in procs::living_descendants() {
            if process.name == "vmm" {
                most_kib = most_kib.max(procs::anonymous_kib(process.pid).unwrap_or(0));
            }
        }
    }
}

/// A process that is killed when it is not needed any more.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A stock guest with a healthy disk and three evil ones: it reads and writes the healthy one while
/// the others flood it with interrupts, scatter rubbish over their rings and grab at its memory.
fn beside_a_disk(context: &Context) -> Result<()> {
    let image = context.sparse_file("image", 16 << 20)?;
    let disk = format!("path={}", image.display());
    let builder = context
        .vm("evil")
        .boots(Stock::DEFAULT, "disk guest.rounds=6");
    let mut builder = builder.mem_mib(256).cpus(2).arg("--disk", disk);
    let mut helpers = Vec::new();
    for malice in ["rubbish", "grab", "flood"] {
        let socket = context.dir().join(malice);
        let child = Command::new(context.program("hostile"))
            .args(["serve", "--seconds", "4", "--malice", malice, "--socket"])
            .arg(&socket)
            .stdin(Stdio::null())
            .spawn()
            .context("hostile")?;
        helpers.push(Helper(child));
        let begun = Instant::now();
        while !socket.exists() && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        let device = format!("type=blk,socket={},id={malice},queues=2", socket.display());
        builder = builder.arg("--vhost-user", device);
    }
    let mut vm = builder.start()?;

    vm.wait_for("GUEST disk_round=6", PATIENCE)?;
    // The guest's kernel complains of the evil ones.
    vm.wait_for("GUEST disk=ok", PATIENCE)?;
    vm.expect_exit(0)?;

    let log = vm.log().text();
    ensure!(!log.contains("panicked"), "somebody panicked");
    Ok(())
}
