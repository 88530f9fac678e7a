// SPDX-License-Identifier: Apache-2.0
//! A stock guest that lets go of its disk with requests under way.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::vmm_replaced::SAVED;
use super::{Case, ONCE};
use crate::context::Context;
use crate::inspect::{events, quietly, vmm_pauses_us};
use crate::machine::Machine;
use crate::procs;
use crate::vm::{PATIENCE, Stock, Vm};

const IMAGE_BYTES: u64 = 16 << 20;
/// How often the driver lets go of its device.
const REBINDS: u32 = 3;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::guest(
            "driver_rebound_and_guest_rebooted_under_load_see_no_stale_replay",
            let_go,
        )
        // The guest writes for two lives, and its driver is taken away thrice.
        .within(Duration::from_secs(180))
        .not_on(Machine::SECOND, ONCE),
        Case::guest(
            "interrupts_masked_while_the_backend_dies_come_when_unmasked",
            |context| masked(context, "masked", backend_dies),
        )
        .not_on(&[Machine::Plic], "a line has no mask of MSI-X"),
        Case::guest(
            "interrupts_masked_while_the_vmm_is_replaced_come_when_unmasked",
            |context| masked(context, "maskedvmm", vmm_is_replaced),
        )
        .only_on_x86(SAVED),
    ]
}

pub(super) fn start(context: &Context, name: &str, does: &'static str) -> Result<Vm> {
    let image = context.sparse_file("image", IMAGE_BYTES)?;
    let disk = format!("path={}", image.display());
    let builder = context.vm(name).boots(Stock::DEFAULT, does);
    builder.mem_mib(256).cpus(2).arg("--disk", disk).start()
}

/// Runs a command in the guest's shell, which must succeed.
pub(super) fn sh(vm: &mut Vm, command: &str) -> Result<()> {
    // The echo of what is typed does not hold what is waited for.
    vm.type_line(&format!("{command}\necho \"@$?\"@"))?;
    vm.wait_for("@0@", PATIENCE)
        .with_context(|| format!("guest: {command}"))
}

/// Loads the drivers and makes two files to write: one older, one newer.
pub(super) fn prepare(vm: &mut Vm) -> Result<()> {
    vm.wait_for("guest# ", PATIENCE)?;
    vm.type_line("stty -echo")?;
    for line in [
        "load() { while read -r m f; do [ $m != $1 ] || for x in $f; do insmod /mod/$x 2>/dev/null; done; done < /mod/order; }",
        "load virtio_pci; load virtio_blk; until [ -b /dev/vda ]; do sleep 0.1; done",
        "seq 1000000 1999999 | head -c 1048576 > /tmp/old; seq 3000000 3999999 | head -c 1048576 > /tmp/new",
        "fill() { dd if=/tmp/$2 of=/dev/$1 bs=64k seek=$3 conv=fsync,notrunc 2>/dev/null; }",
        "holds() { echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/$1 bs=64k skip=$3 count=16 iflag=direct 2>/dev/null | cmp - /tmp/$2; }",
        "cmp() { [ \"$(sha256sum < $2)\" = \"$(sha256sum)\" ]; }",
        "churn() { while [ ! -e /tmp/stop ]; do dd if=/tmp/old of=/dev/$1 bs=64k seek=$2 oflag=direct conv=notrunc 2>/dev/null || sleep 0.1; done; }",
        "bound() { ls /sys/bus/virtio/drivers/virtio_blk | grep '^virtio'; }",
        "disk() { ls /sys/block | grep '^vd' | head -n 1; }",
        "clean() { ! dmesg | grep -i 'I/O error'; }",
    ] {
        sh(vm, line)?;
    }
    Ok(())
}

/// The driver is taken away and brought back, then the guest reboots, each with writes under way
/// that are older than what is written next.
fn let_go(context: &Context) -> Result<()> {
    let mut vm = start(context, "letgo", "shell")?;
    prepare(&mut vm)?;
    for _ in 0..REBINDS {
        sh(
            &mut vm,
            "rm -f /tmp/stop; V=$(bound); D=$(disk); for s in 0 4 8 12; do churn $D $s & done; sleep 0.5; true",
        )?;
        sh(
            &mut vm,
            "echo $V > /sys/bus/virtio/drivers/virtio_blk/unbind",
        )?;
        sh(
            &mut vm,
            ": > /tmp/stop; wait; echo $V > /sys/bus/virtio/drivers/virtio_blk/bind; until [ -n \"$(disk)\" ]; do sleep 0.05; done",
        )?;
        sh(
            &mut vm,
            "D=$(disk); fill $D new 0 && fill $D new 12 && sleep 0.3 && holds $D new 12",
        )?;
    }
    sh(&mut vm, "clean")?;

    sh(
        &mut vm,
        "rm -f /tmp/stop; for s in 0 4 8 12; do churn $D $s & done; sleep 0.5; true",
    )?;
    vm.type_line("reboot -f")?;
    vm.wait_for("GUEST uptime=", PATIENCE)?;
    prepare(&mut vm)?;
    sh(
        &mut vm,
        "fill vda new 0 && fill vda new 12 && sleep 0.5 && holds vda new 12",
    )?;
    sh(&mut vm, "clean")?;
    let events = events(context, "letgo")?;
    let count = |kind: &str, device: Option<&str>| {
        let of = |event: &&Value| event["kind"] == kind && event["device"].as_str() == device;
        events.iter().filter(of).count()
    };
    // With the vmm that reboots its backend goes, too.
    let rebooted = count("rebooted", None);
    let ended = count("backend-died", Some("disk0"));
    println!("SEEN let-go rebinds={REBINDS} reboots={rebooted} ended={ended}");
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)?;
    ensure!(rebooted == 1 && ended <= 1, "{events:#?}");
    Ok(())
}

/// The driver's interrupts are masked as a whole, by the function mask of MSI-X, when requests complete
/// and what is done meanwhile happens.
fn masked(
    context: &Context,
    name: &str,
    meanwhile: fn(&Context, &str, &Vm) -> Result<()>,
) -> Result<()> {
    let mut vm = start(context, name, "shell")?;
    prepare(&mut vm)?;
    for line in [
        // The capability's number is 17; the mask is in the byte three behind it.
        "P=$(readlink -f /sys/block/vda/device)/../config; byte() { dd if=$P bs=1 skip=$1 count=1 2>/dev/null | od -An -tu1 | tr -d ' '; }",
        "C=$(byte 52); while [ $(byte $C) != 17 ]; do C=$(byte $((C + 1))); done; M=$((C + 3))",
        "control() { printf \"$1\" | dd of=$P bs=1 seek=$M conv=notrunc 2>/dev/null; }",
        "control '\\300'; [ $(byte $M) = 192 ]",
        "(fill vda new 0; : > /tmp/filled) & sleep 1; [ ! -e /tmp/filled ]",
    ] {
        sh(&mut vm, line)?;
    }
    meanwhile(context, name, &vm)?;
    sh(&mut vm, "sleep 0.5; [ ! -e /tmp/filled ]")?;
    sh(
        &mut vm,
        "control '\\200'; until [ -e /tmp/filled ]; do sleep 0.05; done; holds vda new 0",
    )?;
    sh(&mut vm, "clean")?;
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)
}

/// The backend dies, and the next one takes over.
fn backend_dies(context: &Context, name: &str, _: &Vm) -> Result<()> {
    let backends = procs::living_descendants().into_iter();
    let mut killed = 0;
    for process in backends.filter(|process| process.name == "blk-backend") {
        kill(process.pid, Signal::SIGKILL)?;
        killed += 1;
    }
    ensure!(killed == 1, "{killed} backends");
    let begun = Instant::now();
    let connected = |events: &[Value]| {
        let of_the_disk = events.iter().filter(|event| event["device"] == "disk0");
        of_the_disk
            .filter(|event| event["kind"] == "backend-connected")
            .count()
    };
    while connected(&events(context, name)?) < 2 {
        ensure!(begun.elapsed() < PATIENCE, "no backend follows");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("SEEN masked kills={killed}");
    Ok(())
}

fn vmm_is_replaced(context: &Context, name: &str, vm: &Vm) -> Result<()> {
    quietly(context, &["restart", vm.name(), "vmm", "--wait"])?;
    let pauses_us = vmm_pauses_us(&events(context, name)?);
    ensure!(pauses_us.len() == 1, "{pauses_us:?}");
    println!("SEEN masked vmm_pauses_us={pauses_us:?}");
    Ok(())
}
