// SPDX-License-Identifier: Apache-2.0
//! Our backends alone, with QEMU as the VMM.

use anyhow::{Result, ensure};

use super::debian::clean;
use super::{Case, DEBIAN as NO_DEBIAN};
use crate::arch;
use crate::boot_sector;
use crate::context::Context;
use crate::network::{BRIDGE, HOST, Network, ip, noise};
use crate::qemu;
use crate::vm::{DEBIAN, PATIENCE, Vm};

/// The size of the image with a boot sector.
const IMAGE_BYTES: u64 = 1 << 20;
const SECTOR_BYTES: usize = 512;
const TAP: &str = "alone0";
/// What is fetched, in MiB.
const FILE_MIB: usize = 4;
/// Takes the NIC from its driver and gives it back.
const REBIND: &str = "cd /sys/bus/virtio/drivers/virtio_net && echo virtio0 > unbind && \
     echo virtio0 > bind && ip link set eth0 up && dhcp";

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ["uring", "threads"]
        .into_iter()
        .map(|engine| {
            let name = format!("alone_backend_with_{engine}_serves_the_firmware_of_qemu");
            Case::native(name, move |context| firmware(context, engine))
                .only_on_x86("the boot sector is for the firmware of a PC")
        })
        .collect();
    let debian = Case::guest("alone_backend_serves_a_debian_in_qemu", debian);
    cases.push(debian.only_on_x86(NO_DEBIAN));
    cases.push(Case::guest("alone_net_backend_serves_a_guest_in_qemu", nic));
    cases
}

/// The firmware's driver reads a boot sector, which reads a sector, writes it elsewhere and says it.
fn firmware(context: &Context, engine: &str) -> Result<()> {
    let image = context.sparse_file("boot.img", IMAGE_BYTES)?;
    let mut content = vec![0; usize::try_from(IMAGE_BYTES)?];
    let message = b"said by a sector that the firmware read\r\n";
    let from = usize::from(boot_sector::FROM) * SECTOR_BYTES;
    content[..SECTOR_BYTES].copy_from_slice(&boot_sector::bytes());
    content[from..from + message.len()].copy_from_slice(message);
    std::fs::write(&image, &content)?;
    let disk = format!("path={},queues=2,engine={engine}", image.display());
    let (mut backend, device) = qemu::backend(context, &disk)?;
    let mut command = qemu::command(64);
    command.args(["-accel", "tcg"]).args(device);
    let mut vm = Vm::spawn(context.name_of("qemu"), &mut command)?;

    vm.wait_for("said by a sector that the firmware read", PATIENCE)?;

    drop(vm);
    let ended = backend.wait_exit(PATIENCE)?;
    ensure!(ended == 0, "the backend ended with {ended}");
    let content = std::fs::read(&image)?;
    let to = usize::from(boot_sector::TO) * SECTOR_BYTES;
    ensure!(content[to..].starts_with(message), "nothing was written");
    Ok(())
}

/// QEMU's frontend with our backend, which nobody has given anything.
fn debian(context: &Context) -> Result<()> {
    let root = context.debian_root("root.img")?;
    let disk = format!("path={},queues=2,serial=alone", root.display());
    let (mut backend, device) = qemu::backend(context, &disk)?;
    let mut command = qemu::command(512);
    command.args(["-accel", "kvm", "-smp", "2"]).args(device);
    qemu::boots(context, &mut command, DEBIAN)?;
    let mut vm = Vm::spawn(context.name_of("qemu"), &mut command)?;

    qemu::with_guest(&mut vm, |vm| {
        vm.log_in()?;
        ensure!(vm.sh("lsblk -dnro NAME,SERIAL")? == "vda alone");
        ensure!(vm.sh("grep -c 'PCI-MSIX.*virtio0-req' /proc/interrupts")? == "2");
        vm.sh("dd if=/dev/urandom of=/root/file bs=1M count=8 conv=fsync status=none")
    })?;
    vm.type_line("systemctl poweroff")?;
    vm.expect_exit(0)?;

    let ended = backend.wait_exit(PATIENCE)?;
    ensure!(ended == 0, "the backend ended with {ended}");
    clean(&root)
}

/// The same with a NIC: a guest gets an address, and a file that is what was served.
fn nic(context: &Context) -> Result<()> {
    let files = context.dir().join("files");
    std::fs::create_dir(&files)?;
    let sum = noise(&files.join("noise"), FILE_MIB)?;
    let _network = Network::make(context, &files)?;
    let (mut backend, device) = qemu::nic(context, TAP)?;
    ip(&format!("link set {TAP} master {BRIDGE} up"))?;
    let mut command = qemu::command(256);
    command.args(["-accel", "kvm", "-smp", "2"]);
    command.args(arch::QEMU_CPU).args(device);
    qemu::boots(context, &mut command, "net")?;
    let mut vm = Vm::spawn(context.name_of("qemu"), &mut command)?;

    qemu::with_guest(&mut vm, |vm| {
        vm.wait_for("GUEST mac=02:77:00:00:00:03", PATIENCE)?;
        vm.line()?;
        let vectors = vm.sh("grep -c 'MSI.*virtio0-\\(in\\|out\\)put' /proc/interrupts")?;
        ensure!(vectors == "4", "{vectors} vectors for two pairs of queues");
        vm.sh("dhcp")?;
        vm.sh(&format!("ping -q -c 3 -w 20 {HOST}"))?;
        let fetched = vm.sh(&format!(
            "busybox wget -q -O - http://{HOST}/noise | sha256sum | cut -d' ' -f1"
        ))?;
        ensure!(fetched == sum, "what was fetched is not what was served");
        vm.sh(REBIND)?;
        vm.sh(&format!("ping -q -c 3 -w 20 {HOST}"))
    })?;
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)?;

    let ended = backend.wait_exit(PATIENCE)?;
    ensure!(ended == 0, "the backend ended with {ended}");
    ensure!(ip(&format!("link show {TAP}")).is_err(), "the tap is left");
    Ok(())
}
