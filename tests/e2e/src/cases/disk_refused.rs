// SPDX-License-Identifier: Apache-2.0
//! Disks that cannot be had: a line for each, and nothing is started.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use super::bad_input::{ERROR, USAGE, complains, with_mounts};
use crate::context::{Context, need_root};
use crate::no_os_kernel::NoOsKernel;
use crate::vm::PATIENCE;

/// The size of images.
const IMAGE_BYTES: u64 = 16 << 20;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("disk_images_wrong_are_all_refused_at_once", wrong_images),
        Case::native("disk_locked_by_another_is_refused", locked),
        Case::native("disk_options_wrong_are_refused", wrong_options),
        Case::native("disk_backend_socket_missing_is_refused", no_socket),
        Case::native("disk_backend_missing_is_refused", no_backend),
        Case::native("disk_without_io_uring_needs_threads", no_io_uring),
        Case::native("disk_direct_where_it_cannot_be_is_refused", no_direct),
        Case::native("disk_that_can_only_be_read_needs_readonly", read_only)
            .only_on_x86("it makes a partition by addpart, which the inner hosts lack"),
    ]
}

/// `bulkhead run` with these flags.
fn command(context: &Context, flags: &[&str]) -> Result<Command> {
    let kernel = NoOsKernel::new().power_off();
    let mut command = context.vm("bad").boots_no_os(&kernel).command()?;
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
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let builder = context.vm("first").boots_no_os(&kernel);
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
    for name in ["bulkhead", "jailer", "vmm", "input-backend"] {
        std::fs::copy(context.program(name), bin.join(name))?;
    }
    let kernel = context.no_os_kernel(&NoOsKernel::new().power_off())?;
    let mut command = Command::new(bin.join("bulkhead"));
    context.prepare(&mut command);
    command.args(["run", "--name", &context.name_of("bad"), "--kernel"]);
    command.arg(kernel).arg("--disk");
    command.arg(format!("path={}", image.display()));
    complains(&mut command, ERROR, &["blk-backend", "beside the jailer"])
}

/// `bulkhead run` where nothing can make an io_uring.
fn without_io_uring(context: &Context, flags: &[&str]) -> Result<Command> {
    let run = command(context, flags)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("without-io-uring").arg(run.get_program());
    context.prepare(&mut command);
    command.args(run.get_args());
    Ok(command)
}

fn no_io_uring(context: &Context) -> Result<()> {
    let first = context.sparse_file("first", IMAGE_BYTES)?;
    let second = context.sparse_file("second", IMAGE_BYTES)?;
    let threads = format!("path={},engine=threads", first.display());
    let uring = format!("path={},engine=uring", second.display());
    let disks = ["--disk", threads.as_str(), "--disk", uring.as_str()];
    let words = ["disk.engine", "uring", "engine=threads works"];
    complains(&mut without_io_uring(context, &disks)?, ERROR, &words)?;

    let output = without_io_uring(context, &disks[..2])?.output()?;

    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(())
}

/// A file system in memory that has no direct I/O.
fn no_direct(context: &Context) -> Result<()> {
    let script = "mount -t ramfs none /mnt && truncate -s 1M /mnt/image";
    let mut direct = with_mounts(context, script)?;
    direct.args(["--disk", "path=/mnt/image,direct"]);
    let words = ["disk", "/mnt/image", "direct I/O is not supported"];
    complains(&mut direct, ERROR, &words)?;

    let mut buffered = with_mounts(context, script)?;
    let output = buffered.args(["--disk", "path=/mnt/image"]).output()?;

    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    Ok(())
}

/// A block device that was made read-only.
struct ReadOnlyLoop(String);

impl ReadOnlyLoop {
    fn make(image: &Path) -> Result<Self> {
        let output = Command::new("losetup")
            .args(["--read-only", "--find", "--show"])
            .arg(image)
            .output()
            .context("losetup")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "losetup: {said}");
        Ok(Self(String::from_utf8(output.stdout)?.trim().to_owned()))
    }

    /// A node of its first partition, of 4 MiB, made where `/dev` has none. The kernel is told of the
    /// partition: it may know no format of tables.
    fn partition(&self, node: &Path) -> Result<()> {
        // The kernel keeps partitions of a loop device that was detached.
        self.forget_partition();
        let mut command = Command::new("addpart");
        let added = command
            .args([self.0.as_str(), "1", "2048", "8192"])
            .status();
        ensure!(added.context("addpart")?.success(), "addpart failed");
        let name = self.0.trim_start_matches("/dev/");
        let number = fs::read_to_string(format!("/sys/class/block/{name}p1/dev"));
        let number = number.context("the kernel sees no partition")?;
        let (major, minor) = number.trim().split_once(':').context("no device number")?;
        let mut command = Command::new("mknod");
        let made = command.arg(node).args(["b", major, minor]).status()?;
        ensure!(made.success(), "mknod: {made}");
        Ok(())
    }
}

impl ReadOnlyLoop {
    /// Has the kernel know of no first partition; it may know of none as it is.
    fn forget_partition(&self) {
        let mut command = Command::new("delpart");
        let _ = command.args([self.0.as_str(), "1"]).output();
    }
}

impl Drop for ReadOnlyLoop {
    fn drop(&mut self) {
        self.forget_partition();
        let detached = Command::new("losetup").args(["--detach", &self.0]).status();
        if !detached.is_ok_and(|status| status.success()) {
            println!("{} is left", self.0);
        }
    }
}

/// A read-only block device, a partition of one, and a file on a read-only file system.
fn read_only(context: &Context) -> Result<()> {
    need_root()?;
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let device = ReadOnlyLoop::make(&image)?;
    let partition = context.dir().join("partition");
    device.partition(&partition)?;

    for path in [device.0.clone(), partition.display().to_string()] {
        let disk = format!("path={path}");
        let words = ["disk", path.as_str(), "can only be read: add readonly"];
        complains(&mut command(context, &["--disk", &disk])?, ERROR, &words)?;
        let readonly = format!("{disk},readonly");
        let output = command(context, &["--disk", &readonly])?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{path}: {}: {said}", output.status);
    }

    let script =
        "mount -t tmpfs none /mnt && truncate -s 1M /mnt/image && mount -o remount,ro /mnt";
    let mut command = with_mounts(context, script)?;
    command.args(["--disk", "path=/mnt/image"]);
    let words = ["disk", "/mnt/image", "can only be read: add readonly"];
    complains(&mut command, ERROR, &words)
}
