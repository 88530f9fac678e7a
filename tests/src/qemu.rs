// SPDX-License-Identifier: Apache-2.0
//! QEMU as the VMM, with our disk backend running alone.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::context::Context;
use crate::vm::{PATIENCE, Vm};

/// A QEMU without anything but memory that can be shared and a console on standard input and output.
#[must_use]
pub fn command(mem_mib: u32) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-no-user-config", "-nodefaults", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio"]);
    command.args(["-M", "q35,memory-backend=ram", "-m", &mem_mib.to_string()]);
    let memory = format!("memory-backend-memfd,id=ram,size={mem_mib}M,share=on");
    command.args(["-object", &memory]);
    command
}

/// Starts our backend alone for `--disk disk`; returns it, and what makes QEMU use it.
///
/// # Errors
/// When it does not come up.
pub fn backend(context: &Context, disk: &str) -> Result<(Vm, Vec<String>)> {
    let socket = context.dir().join("blk.sock");
    let mut command = Command::new(context.program("blk-backend"));
    command
        .arg("--socket-path")
        .arg(&socket)
        .args(["--disk", disk]);
    let process = Vm::spawn(context.name_of("backend"), &mut command)?;
    wait_for(&socket)?;
    let device = ["-chardev", "-device"].map(str::to_owned);
    let [chardev, device] = device;
    let arguments = vec![
        chardev,
        format!("socket,id=disk,path={}", socket.display()),
        device,
        "vhost-user-blk-pci,chardev=disk,num-queues=2,bootindex=1".to_owned(),
    ];
    Ok((process, arguments))
}

/// Waits until a program listens on its socket.
///
/// # Errors
/// When it does not.
pub fn wait_for(socket: &Path) -> Result<()> {
    let begun = Instant::now();
    while !socket.exists() {
        ensure!(
            begun.elapsed() < PATIENCE,
            "nobody made {}",
            socket.display()
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}
