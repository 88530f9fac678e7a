// SPDX-License-Identifier: Apache-2.0
//! QEMU as the VMM, with our backends running alone.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::arch;
use crate::context::Context;
use crate::vm::{GuestDoes, PATIENCE, Vm};

/// How long a QEMU whose guest has crashed takes to end.
const MOMENT: Duration = Duration::from_secs(1);

/// A QEMU without anything but memory that can be shared and a console on standard input and output.
#[must_use]
pub fn command(mem_mib: u32) -> Command {
    let (program, machine, _) = arch::QEMU;
    let mut command = Command::new(program);
    command.args(["-no-user-config", "-nodefaults", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio"]);
    let machine = format!("{machine},memory-backend=ram");
    command.args(["-M", &machine, "-m", &mem_mib.to_string()]);
    let memory = format!("memory-backend-memfd,id=ram,size={mem_mib}M,share=on");
    command.args(["-object", &memory]);
    command
}

/// Has QEMU boot the newer stock kernel, whose init does what `does` says.
///
/// # Errors
/// When there is none on this machine.
pub fn boots(context: &Context, command: &mut Command, does: &'static str) -> Result<()> {
    for (flag, name) in [("-kernel", "vmlinuz-6.12"), ("-initrd", "initrd-6.12.cpio")] {
        command.arg(flag).arg(context.asset(name)?);
    }
    let (_, _, console) = arch::QEMU;
    let cmdline = GuestDoes(does).to_string().replace("ttyS0", console);
    command.arg("-append").arg(cmdline);
    Ok(())
}

/// What is done with a guest of QEMU's that never resets itself. With `-no-reboot` QEMU ends without an
/// error and without a word when its guest is reset all the same; the error of what is done says so.
///
/// # Errors
/// Those of what is done.
pub fn with_guest<T>(vm: &mut Vm, does: impl FnOnce(&mut Vm) -> Result<T>) -> Result<T> {
    does(vm).map_err(|e| match vm.wait_exit(MOMENT) {
        Ok(0) => {
            e.context("QEMU ended by itself: the guest crashed: a triple fault, or reset itself")
        }
        _ => e,
    })
}

/// Starts our disk backend alone for `--disk disk`; returns it, and what makes QEMU use it.
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

/// Starts our network backend alone for `--tap tap`, with two pairs of queues; returns it, and what
/// makes QEMU use it.
///
/// # Errors
/// When it does not come up.
pub fn nic(context: &Context, tap: &str) -> Result<(Vm, Vec<String>)> {
    let socket = context.dir().join("net.sock");
    let mut command = Command::new(context.program("net-backend"));
    command
        .arg("--socket-path")
        .arg(&socket)
        .args(["--tap", tap, "--queues", "2"]);
    let process = Vm::spawn(context.name_of("backend"), &mut command)?;
    wait_for(&socket)?;
    let chardev = format!("socket,id=nic,path={}", socket.display());
    let arguments = [
        "-chardev",
        &chardev,
        "-netdev",
        "vhost-user,id=net,chardev=nic,queues=2",
        "-device",
        "virtio-net-pci,netdev=net,mq=on,vectors=6,romfile=,mac=02:77:00:00:00:03",
    ];
    Ok((process, arguments.map(str::to_owned).to_vec()))
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

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    /// The error of something that fails while a program runs `script`.
    fn error_under(script: &str) -> String {
        let mut vm = Vm::spawn("fake vmm".into(), Command::new("sh").args(["-c", script])).unwrap();
        let failed: Result<()> = with_guest(&mut vm, |_| Err(anyhow!("no prompt came")));
        format!("{:#}", failed.unwrap_err())
    }

    #[test]
    fn error_says_that_a_guest_was_reset() {
        let words = "QEMU ended by itself: the guest crashed: a triple fault, or reset itself";
        assert_eq!(error_under("exit 0"), format!("{words}: no prompt came"));
    }

    #[test]
    fn error_is_left_alone_when_the_guest_was_not_reset() {
        assert_eq!(error_under("exit 1"), "no prompt came");
        assert_eq!(error_under("sleep 60"), "no prompt came");
    }
}
