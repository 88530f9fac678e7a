// SPDX-License-Identifier: Apache-2.0
//! A directory of the host in the guest: a virtio file system, served by virtiofsd.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::context::Context;
use crate::qemu;
use crate::vm::{Stock, Vm};

/// Where Debian has it.
const VIRTIOFSD: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];

/// The init of a guest whose root is a directory of the host's.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
while read -r device at type rest; do [ $at != / ] || echo \"GUEST root=$type\"; done < /proc/mounts
echo \"written by the root's init\" > /from-guest
/bin/busybox sync
/bin/busybox poweroff -f
";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::guest("fs_of_virtiofsd_is_read_and_written", read_and_written),
        Case::guest("fs_of_virtiofsd_is_the_root_of_a_guest", root),
    ]
}

/// Starts virtiofsd for a directory, and a VM with it.
fn start(context: &Context, shared: &Path, guest_does: &'static str) -> Result<(Vm, Vm)> {
    let socket = context.dir().join("fs.sock");
    let program = VIRTIOFSD.into_iter().find(|path| Path::new(path).exists());
    let mut daemon = Command::new(program.context("there is no virtiofsd")?);
    daemon.arg(format!("--socket-path={}", socket.display()));
    daemon.arg(format!("--shared-dir={}", shared.display()));
    daemon.args(["--sandbox", "none"]);
    let daemon = Vm::spawn(context.name_of("virtiofsd"), &mut daemon)?;
    qemu::wait_for(&socket)?;
    let device = format!("type=fs,socket={},tag=from-outside", socket.display());
    let builder = context.vm("fs").boots(Stock::DEFAULT, guest_does);
    let vm = builder.mem_mib(256).arg("--vhost-user", device).start()?;
    Ok((vm, daemon))
}

fn root(context: &Context) -> Result<()> {
    let shared = context.dir().join("root");
    for dir in ["bin", "dev", "proc", "sbin"] {
        std::fs::create_dir_all(shared.join(dir))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    std::fs::copy(
        busybox.context("there is no busybox")?,
        shared.join("bin/busybox"),
    )?;
    let init = shared.join("sbin/init");
    std::fs::write(&init, INIT)?;
    std::fs::set_permissions(&init, Permissions::from_mode(0o755))?;
    let (mut vm, _daemon) = start(context, &shared, "fsroot")?;

    let root = vm.guest_value("root")?;
    ensure!(root == "virtiofs", "the root is {root:?}");
    vm.expect_exit(0)?;

    let written = std::fs::read_to_string(shared.join("from-guest"))?;
    ensure!(written == "written by the root's init\n", "{written:?}");
    Ok(())
}

fn read_and_written(context: &Context) -> Result<()> {
    let shared = context.dir().join("shared");
    std::fs::create_dir(&shared)?;
    std::fs::write(shared.join("from-host"), "written by the host\n")?;
    let (mut vm, _daemon) = start(context, &shared, "fs")?;

    ensure!(vm.guest_value("fs_read")? == "written by the host");
    ensure!(vm.guest_value("fs")? == "ok");
    vm.expect_exit(0)?;

    let written = std::fs::read_to_string(shared.join("from-guest"))?;
    ensure!(written == "written by the guest\n", "{written:?}");
    let copy = std::fs::read(shared.join("copy"))?;
    ensure!(copy.len() == 1 << 20, "{} bytes", copy.len());
    Ok(())
}
