// SPDX-License-Identifier: Apache-2.0
//! Disks whose device model is another process: a stock guest uses them, backends die, images are
//! wrong.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::Case;
use super::bad_input::{ERROR, USAGE, complains};
use crate::context::Context;
use crate::procs;
use crate::tiny_kernel::TinyKernel;
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
        cases.push(Case::guest(
            format!("disk_with_{engine}_whose_backend_is_killed_goes_on"),
            move |context| killed(context, engine),
        ));
        cases.push(Case::guest(
            format!("disk_with_{engine}_is_there_again_after_a_reboot"),
            move |context| rebooted(context, engine),
        ));
    }
    cases.extend([
        Case::guest("disk_readonly_is_read_and_not_written", readonly),
        Case::guest(
            "disk_of_a_foreign_backend_keeps_what_the_guest_writes",
            foreign,
        ),
        Case::native("disk_images_wrong_are_all_refused_at_once", wrong_images),
        Case::native("disk_locked_by_another_is_refused", locked),
        Case::native("disk_options_wrong_are_refused", wrong_options),
        Case::native("disk_backend_socket_missing_is_refused", no_socket),
        Case::native("disk_backend_missing_is_refused", no_backend),
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
    ensure!(vm.guest_value("disk_vectors")? == "2", "a vector per queue");
    ends_well(&mut vm)?;
    vm.expect_exit(0)?;
    holds(&image, 1)
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

/// A process that is killed when it is not needed any more.
struct Helper(std::process::Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn foreign(context: &Context) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let socket = context.dir().join("qsd.sock");
    let child = std::process::Command::new("qemu-storage-daemon")
        .arg("--blockdev")
        .arg(format!("file,node-name=f,filename={}", image.display()))
        .args(["--blockdev", "raw,node-name=r,file=f", "--export"])
        .arg(format!(
            "vhost-user-blk,id=e,node-name=r,writable=on,addr.type=unix,addr.path={}",
            socket.display()
        ))
        .spawn()
        .context("qemu-storage-daemon")?;
    let _helper = Helper(child);
    let begun = std::time::Instant::now();
    while !socket.exists() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(20));
    }
    let device = format!("type=blk,socket={},id=theirs", socket.display());
    let builder = context.vm("disk").boots(Stock::DEFAULT, "disk");
    let mut vm = builder.mem_mib(256).arg("--vhost-user", device).start()?;

    ends_well(&mut vm)?;
    vm.expect_exit(0)?;
    holds(&image, 1)
}

/// `bulkhead run` with these flags.
fn command(context: &Context, flags: &[&str]) -> Result<std::process::Command> {
    let kernel = TinyKernel::new().power_off();
    let mut command = context.vm("bad").boots_tiny(&kernel).command()?;
    command.args(flags);
    Ok(command)
}

fn wrong_images(context: &Context) -> Result<()> {
    let at = |name: &str| context.dir().join(name).display().to_string();
    context.file("empty", b"")?;
    context.file("odd", &[0; 700])?;
    context.file("good", &[0; 1024])?;
    let mut flags = Vec::new();
    for name in ["missing", ".", "empty", "odd", "good"] {
        flags.extend(["--disk".to_owned(), format!("path={}", at(name))]);
    }
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();

    let output = command(context, &flags)?.output()?;

    let said = String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(said.lines().count() == 4, "not four lines");
    for (line, (name, reason)) in said.lines().zip([
        ("missing", "No such file"),
        (".", "neither a regular file"),
        ("empty", "empty"),
        ("odd", "700 bytes"),
    ]) {
        let named = line.contains("disk") && line.contains(&at(name));
        ensure!(named && line.contains(reason), "{line}");
    }
    Ok(())
}

fn locked(context: &Context) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let disk = format!("path={}", image.display());
    let kernel = TinyKernel::new().say("hello\n").spin();
    let builder = context.vm("first").boots_tiny(&kernel);
    let mut vm = builder.arg("--disk", &disk).start()?;
    vm.wait_for("hello\n", PATIENCE)?;

    let mut second = command(context, &["--disk", &disk])?;
    let refused = complains(&mut second, ERROR, &["disk", &disk[5..], "locked"]);
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.wait_exit(PATIENCE)?;
    refused?;

    let again = command(context, &["--disk", &disk])?.output()?;
    ensure!(again.status.success(), "{}", again.status);
    Ok(())
}

fn wrong_options(context: &Context) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let path = format!("path={}", image.display());
    for (option, words) in [
        ("queues=0", ["disk.queues", "0"]),
        ("queues=17", ["disk.queues", "17"]),
        ("queue-size=100", ["disk.queue-size", "100"]),
        ("id=a/b", ["disk.id", "a/b"]),
        ("engine=aio", ["--disk", "aio"]),
        ("frobnicate", ["--disk", "frobnicate"]),
    ] {
        let disk = format!("{path},{option}");
        complains(&mut command(context, &["--disk", &disk])?, USAGE, &words)?;
    }
    let twice = ["--disk", &path, "--disk", &format!("{path},id=disk0")].map(str::to_owned);
    let twice: Vec<&str> = twice.iter().map(String::as_str).collect();
    complains(&mut command(context, &twice)?, USAGE, &["disk.id", "disk0"])
}

fn no_socket(context: &Context) -> Result<()> {
    let socket = context.dir().join("dead.sock");
    let device = format!("type=blk,socket={}", socket.display());
    let words = ["vhost-user", &device[16..]];
    complains(
        &mut command(context, &["--vhost-user", &device])?,
        ERROR,
        &words,
    )?;
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    complains(
        &mut command(context, &["--vhost-user", &device])?,
        ERROR,
        &words,
    )
}

fn no_backend(context: &Context) -> Result<()> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let bin = context.dir().join("bin");
    std::fs::create_dir(&bin)?;
    for name in ["bulkhead", "jailer", "vmm"] {
        std::fs::copy(context.program(name), bin.join(name))?;
    }
    let kernel = context.tiny_kernel(&TinyKernel::new().power_off())?;
    let mut command = std::process::Command::new(bin.join("bulkhead"));
    context.prepare(&mut command);
    command.args(["run", "--name", &context.name_of("bad"), "--kernel"]);
    command.arg(kernel).arg("--disk");
    command.arg(format!("path={}", image.display()));
    complains(&mut command, ERROR, &["blk-backend", "beside the jailer"])
}
