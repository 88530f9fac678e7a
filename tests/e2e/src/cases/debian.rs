// SPDX-License-Identifier: Apache-2.0
//! A full Debian on its disk: boots to its login prompt and uses its disks as people do.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::context::Context;
use crate::vm::{DEBIAN, Stock, Vm};

/// Two boots in emulation and what is done in them.
const LIMIT: Duration = Duration::from_secs(240);
/// The size of the second disk.
const DATA_BYTES: u64 = 64 << 20;
/// What file systems count in.
const BLOCK: u64 = 512;

pub(super) fn cases() -> Vec<Case> {
    vec![Case::guest("debian_on_its_disk_uses_it_as_people_do", uses).within(LIMIT)]
}

fn uses(context: &Context) -> Result<()> {
    let root = context.debian_root("root.img")?;
    let data = context.sparse_file("data.img", DATA_BYTES)?;
    let builder = context.vm("debian").boots(Stock::DEFAULT, DEBIAN);
    let (vda, vdb) = (root.display(), data.display());
    let builder = builder
        .arg("--disk", format!("path={vda},queues=2,serial=the-root"))
        .arg("--disk", format!("path={vdb},queues=2,serial=the-data"));
    let mut vm = builder.cpus(2).mem_mib(512).start()?;
    vm.log_in()?;

    is_what_was_asked_for(&mut vm)?;
    verifies(&mut vm)?;
    discards(&mut vm, &data)?;
    trims(&mut vm, &data)?;
    rebinds(&mut vm)?;
    reboots_at_work(&mut vm)?;
    vm.type_line("systemctl poweroff")?;
    vm.expect_exit(0)?;
    clean(&root)?;
    clean(&data)
}

fn is_what_was_asked_for(vm: &mut Vm) -> Result<()> {
    let disks = vm.sh("lsblk -dnro NAME,SERIAL")?;
    ensure!(disks == "vda the-root\nvdb the-data", "{disks}");
    let root = vm.sh("findmnt -no SOURCE,FSTYPE /")?;
    ensure!(root.split_whitespace().eq(["/dev/vda", "ext4"]), "{root}");
    for device in ["virtio0", "virtio1"] {
        let queues = vm.sh(&format!(
            "grep -c 'PCI-MSIX.*{device}-req' /proc/interrupts"
        ))?;
        ensure!(queues == "2", "{device} has {queues} vectors for queues");
    }
    let queues = vm.sh("ls /sys/block/vdb/mq | wc -l")?;
    ensure!(queues == "2", "vdb has {queues} queues");
    Ok(())
}

/// Random blocks from two processes at once, each with its checksum, read back afterwards.
fn verifies(vm: &mut Vm) -> Result<()> {
    vm.sh(
        "fio --name=v --filename=/dev/vdb --size=6M --offset_increment=8M --numjobs=2 --rw=randwrite \
         --bs=4k --iodepth=16 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
         > /tmp/fio 2>&1 || { cat /tmp/fio; false; }",
    )?;
    Ok(())
}

/// Space that the image takes on the host.
fn taken(image: &Path) -> Result<u64> {
    let metadata = image.metadata().context("the image")?;
    Ok(metadata.blocks() * BLOCK)
}

fn discards(vm: &mut Vm, image: &Path) -> Result<()> {
    ensure!(taken(image)? >= 12 << 20, "fio wrote nothing");

    vm.sh("blkdiscard /dev/vdb")?;

    let left = taken(image)?;
    ensure!(left == 0, "{left} bytes are left in the image");
    vm.sh("cmp -n 14680064 /dev/vdb /dev/zero")?;
    Ok(())
}

fn trims(vm: &mut Vm, image: &Path) -> Result<()> {
    vm.sh("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt")?;
    let empty = taken(image)?;
    vm.sh("dd if=/dev/urandom of=/mnt/file bs=1M count=16 conv=fsync status=none")?;
    ensure!(
        taken(image)? >= empty + (16 << 20),
        "the file takes no space"
    );

    vm.sh("rm /mnt/file && sync && fstrim /mnt")?;

    let left = taken(image)?;
    ensure!(left < empty + (2 << 20), "{left} of {empty} bytes are left");
    vm.sh("umount /mnt")?;
    Ok(())
}

/// Takes the driver from the device while programs use it, and gives it back.
fn rebinds(vm: &mut Vm) -> Result<()> {
    vm.sh(
        "fio --name=load --filename=/dev/vdb --size=32M --rw=randrw --bs=4k --iodepth=16 \
         --ioengine=libaio --direct=1 --time_based --runtime=60 > /tmp/load 2>&1 & \
         sleep 1; cd /sys/bus/virtio/drivers/virtio_blk; r() { awk '{print $3}' /sys/block/vdb/stat; }; \
         before=$(r); sleep 1; [ $(r) -gt $before ] && echo virtio1 > unbind && ! [ -e /dev/vdb ]",
    )?;
    let (_, status) = vm.sh_status("wait; ! grep -q 'err= *0' /tmp/load")?;
    ensure!(status == 0, "fio did not notice that its disk went");

    vm.sh("cd; echo virtio1 > /sys/bus/virtio/drivers/virtio_blk/bind && udevadm settle")?;

    let disks = vm.sh("lsblk -dnro NAME,SERIAL")?;
    ensure!(disks == "vda the-root\nvdb the-data", "{disks}");
    verifies(vm)
}

/// Pulls the plug while both disks are written to.
fn reboots_at_work(vm: &mut Vm) -> Result<()> {
    vm.sh("mkfs.ext4 -q /dev/vdb && mount /dev/vdb /mnt && echo kept > /mnt/kept && sync -f /mnt/kept")?;
    vm.sh(
        "for dir in /root /mnt; do (i=0; while :; do i=$((i + 1)); head -c 30000 /dev/urandom \
         > $dir/f$((i % 50)); [ $((i % 7)) != 0 ] || sync -f $dir; done) > /dev/null 2>&1 & done; sleep 3",
    )?;
    vm.type_line("echo b > /proc/sysrq-trigger")?;

    vm.log_in()?;

    // The journal is replayed, and then there is nothing to repair.
    vm.sh("e2fsck -p /dev/vdb && e2fsck -fn /dev/vdb")?;
    let kept = vm.sh("mount /dev/vdb /mnt && cat /mnt/kept && umount /mnt")?;
    ensure!(kept == "kept", "{kept}");
    Ok(())
}

/// A file system must need no repair.
pub(super) fn clean(image: &Path) -> Result<()> {
    let checked = Command::new("e2fsck").arg("-fn").arg(image).output();
    let checked = checked.context("e2fsck")?;
    let said = String::from_utf8_lossy(&checked.stdout);
    ensure!(checked.status.success(), "{}: {said}", image.display());
    Ok(())
}
