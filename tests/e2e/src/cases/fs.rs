// SPDX-License-Identifier: Apache-2.0
//! A directory of the host in the guest: a virtio file system, served by virtiofsd.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::context::Context;
use crate::qemu;
use crate::vm::{Stock, Vm};

/// Where Debian has it.
const VIRTIOFSD: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];

pub(super) fn cases() -> Vec<Case> {
    vec![Case::guest(
        "fs_of_virtiofsd_is_read_and_written",
        read_and_written,
    )]
}

fn read_and_written(context: &Context) -> Result<()> {
    let shared = context.dir().join("shared");
    std::fs::create_dir(&shared)?;
    std::fs::write(shared.join("from-host"), "written by the host\n")?;
    let socket = context.dir().join("fs.sock");
    let program = VIRTIOFSD.into_iter().find(|path| Path::new(path).exists());
    let mut daemon = Command::new(program.context("there is no virtiofsd")?);
    daemon.arg(format!("--socket-path={}", socket.display()));
    daemon.arg(format!("--shared-dir={}", shared.display()));
    daemon.args(["--sandbox", "none"]);
    let _daemon = Vm::spawn(context.name_of("virtiofsd"), &mut daemon)?;
    qemu::wait_for(&socket)?;
    let device = format!("type=fs,socket={},tag=from-outside", socket.display());
    let builder = context.vm("fs").boots(Stock::DEFAULT, "fs");
    let mut vm = builder.mem_mib(256).arg("--vhost-user", device).start()?;

    ensure!(vm.guest_value("fs_read")? == "written by the host");
    ensure!(vm.guest_value("fs")? == "ok");
    vm.expect_exit(0)?;

    let written = std::fs::read_to_string(shared.join("from-guest"))?;
    ensure!(written == "written by the guest\n", "{written:?}");
    let copy = std::fs::read(shared.join("copy"))?;
    ensure!(copy.len() == 1 << 20, "{} bytes", copy.len());
    Ok(())
}
