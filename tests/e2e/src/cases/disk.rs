// SPDX-License-Identifier: Apache-2.0
//! Disks whose device model is another process: a stock guest uses them, backends die.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::{Case, ONCE};
use crate::context::Context;
use crate::machine::Machine;
use crate::procs;
use crate::qemu;
use crate::vm::{PATIENCE, Stock, Vm};

/// The size of images.
const IMAGE_BYTES: u64 = 16 << 20;
/// What the guest writes in a round.
const ROUND_BYTES: usize = 1 << 20;
/// How often backends are killed.
const KILLS: u32 = 4;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for engine in ["uring", "threads"] {
        cases.push(Case::guest(
            format!("disk_with_{engine}_keeps_what_the_guest_writes"),
            move |context| keeps(context, engine),
        ));
        let goes_on = [
            Case::guest(
                format!("disk_with_{engine}_whose_backend_is_killed_goes_on"),
                move |context| killed(context, engine),
            ),
            Case::guest(
                format!("disk_with_{engine}_is_there_again_after_a_reboot"),
                move |context| rebooted(context, engine),
            ),
        ];
        cases.extend(goes_on.map(|case| case.with_engine(engine)));
    }
    cases.extend([
        Case::guest(
            "disk_of_a_driver_without_messages_interrupts_by_its_line",
            without_messages,
        )
        .not_on(
            &[Machine::Plic],
            "a PLIC has lines only: every disk interrupts so",
        ),
        Case::guest("disk_in_a_later_slot_is_found_later", slots).not_on(Machine::SECOND, ONCE),
        Case::guest("disk_readonly_is_read_and_not_written", readonly)
            .not_on(Machine::SECOND, ONCE),
        Case::guest(
            "disk_of_a_foreign_backend_keeps_what_the_guest_writes",
            foreign,
        )
        .not_on(Machine::SECOND, ONCE),
    ]);
    cases
}

fn start(context: &Context, disk: &str, does: &'static str) -> Result<Vm> {
    let builder = context.vm("disk").boots(Stock::DEFAULT, does);
    builder.mem_mib(256).cpus(2).arg("--disk", disk).start()
}

/// What the guest writes in a round, as guest-init.sh makes it.
fn numbers(round: u32) -> Vec<u8> {
    let first = round * 1_000_000;
    let mut text = Vec::with_capacity(ROUND_BYTES + 16);
    for number in first..first + 1_000_000 {
        if text.len() >= ROUND_BYTES {
            break;
        }
        // Writing to a Vec does not fail.
        let _ = writeln!(text, "{number}");
    }
    text.truncate(ROUND_BYTES);
    text
}

fn holds(image: &Path, round: u32) -> Result<()> {
    let content = std::fs::read(image).context("the image")?;
    let same = content.get(..ROUND_BYTES) == Some(&numbers(round)[..]);
    ensure!(same, "the image does not hold what the guest wrote");
    Ok(())
}

fn ends_well(vm: &mut Vm) -> Result<()> {
    let verdict = vm.guest_value("disk")?;
    ensure!(verdict == "ok", "the guest says {verdict:?} of its disk");
    Ok(())
}

/// The first disk of the spec is behind the second one on the bus: the guest's first is the second.
fn slots(context: &Context) -> Result<()> {
    let later = context.sparse_file("later", IMAGE_BYTES / 2)?;
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let builder = context.vm("slots").boots(Stock::DEFAULT, "disk");
    let builder = builder.arg("--disk", format!("path={},slot=7", later.display()));
    let builder = builder.arg("--disk", format!("path={}", image.display()));
    let mut vm = builder.mem_mib(256).cpus(2).start()?;

    ensure!(vm.guest_value("disk_size")? == (IMAGE_BYTES / 512).to_string());
    ends_well(&mut vm)?;
    vm.expect_exit(0)?;
    let untouched = std::fs::read(&later)?.iter().all(|byte| *byte == 0);
    ensure!(untouched, "the guest wrote to the disk that it was not to");
    holds(&image, 1)
}

fn keeps(context: &Context, engine: &str) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let disk = format!(
        "path={},engine={engine},queues=2,serial=my-serial",
        image.display()
    );
    let mut vm = start(context, &disk, "disk")?;

    ensure!(vm.guest_value("disk_size")? == (IMAGE_BYTES / 512).to_string());
    ensure!(vm.guest_value("disk_serial")? == "my-serial");
    ensure!(vm.guest_value("disk_ro")? == "0");
    let vectors = vm.guest_value("disk_vectors")?;
    seen(&vm.guest_value("disk_interrupt")?);
    let expected = ["0", "2"][usize::from(context.machine().has_messages())];
    ensure!(vectors == expected, "{vectors} vectors for two queues");
    ends_well(&mut vm)?;
    vm.expect_exit(0)?;
    holds(&image, 1)
}

/// The kernel takes no messages at all: one interrupt line carries queues and configuration, also when
/// a backend has died.
fn without_messages(context: &Context) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let disk = format!("path={},queues=2", image.display());
    let mut vm = start(context, &disk, "disk guest.rounds=4 pci=nomsi")?;

    ensure!(vm.guest_value("disk_vectors")? == "0", "there are messages");
    let interrupt = vm.guest_value("disk_interrupt")?;
    seen(&interrupt);
    // A line of the APLIC's becomes a message inside of it.
    let is_message = interrupt.contains("MSI") && !interrupt.contains("APLIC-MSI");
    ensure!(!interrupt.is_empty() && !is_message, "it is {interrupt:?}");
    vm.wait_for("GUEST disk_round=1", PATIENCE)?;
    kill_backends()?;
    ends_well(&mut vm)?;
    vm.expect_exit(0)?;
    holds(&image, 4)
}

/// Says a line of /proc/interrupts without its number and counts.
fn seen(line: &str) {
    let is_count = |word: &&str| word.trim_end_matches(':').parse::<u64>().is_ok();
    let words: Vec<_> = line.split_whitespace().skip_while(is_count).collect();
    println!("SEEN interrupt {}", words.join(" "));
}

/// Kills every backend there is.
fn kill_backends() -> Result<()> {
    let mut backends = procs::living_descendants();
    backends.retain(|process| process.name == "blk-backend");
    ensure!(!backends.is_empty(), "there is no backend to kill");
    for process in backends {
        // It may have been killed already, and its successor is there.
        let _ = kill(process.pid, Signal::SIGKILL);
    }
    Ok(())
}

fn killed(context: &Context, engine: &str) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let disk = format!("path={},engine={engine}", image.display());
    let mut vm = start(context, &disk, "disk guest.rounds=8")?;

    for round in 1..=KILLS {
        vm.wait_for(&format!("GUEST disk_round={round}"), PATIENCE)?;
        // Somewhere in the next round.
        std::thread::sleep(Duration::from_millis(u64::from(round) * 40));
        kill_backends()?;
    }
    vm.wait_for(&format!("GUEST disk_round={}", KILLS + 2), PATIENCE)?;
    let info = context.run_ok(&["inspect", vm.name(), "--json"])?;
    let counted = info.contains(&format!("\"restarts\": {KILLS}"));
    ensure!(
        info.contains("\"blk disk0\"") && counted,
        "the restarts do not show"
    );
    ends_well(&mut vm)?;
    vm.expect_exit(0)?;
    holds(&image, 8)
}

fn rebooted(context: &Context, engine: &str) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let disk = format!("path={},engine={engine}", image.display());
    let mut vm = start(context, &disk, "ask")?;

    for then in ["reboot", "poweroff"] {
        vm.wait_for("GUEST ready", PATIENCE)?;
        vm.type_line("disk")?;
        ends_well(&mut vm)?;
        vm.type_line(then)?;
    }

    vm.expect_exit(0)?;
    holds(&image, 1)
}

fn readonly(context: &Context) -> Result<()> {
    let image = context.file("image", &numbers(3))?;
    let disk = format!("path={},readonly", image.display());
    let mut vm = start(context, &disk, "disk")?;

    ensure!(vm.guest_value("disk_ro")? == "1");
    vm.wait_for("GUEST disk=", PATIENCE)?;
    let verdict = vm.line()?;
    // Its kernel logs the write that it refuses.
    ensure!(["ok", "errors"].contains(&verdict.as_str()), "{verdict}");
    vm.expect_exit(0)?;
    holds(&image, 3)
}

fn foreign(context: &Context) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let socket = context.dir().join("qsd.sock");
    let mut daemon = Command::new("qemu-storage-daemon");
    daemon.arg("--blockdev");
    daemon.arg(format!("file,node-name=f,filename={}", image.display()));
    daemon.args(["--blockdev", "raw,node-name=r,file=f", "--export"]);
    daemon.arg(format!(
        "vhost-user-blk,id=e,node-name=r,writable=on,addr.type=unix,addr.path={}",
        socket.display()
    ));
    let _daemon = Vm::spawn(context.name_of("daemon"), &mut daemon)?;
    qemu::wait_for(&socket)?;
    let device = format!("type=blk,socket={},id=theirs", socket.display());
    let builder = context.vm("disk").boots(Stock::DEFAULT, "disk");
    let mut vm = builder.mem_mib(256).arg("--vhost-user", device).start()?;

    ends_well(&mut vm)?;
    vm.expect_exit(0)?;
    holds(&image, 1)
}
