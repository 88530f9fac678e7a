// SPDX-License-Identifier: Apache-2.0
//! Vmms that are replaced under stock guests, which must see pauses and nothing else: a Debian with one TCP
//! connection and a disk that fio verifies; a small one whose second processor was never started, while
//! it counts on its console and while its driver lets go of its disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};

use super::Case;
use super::net::BOOT;
use super::restart_guest::{prepare, sh, start};
use super::vmm_replaced::SAVED;
use crate::context::Context;
use crate::inspect::{events, quietly, vmm_pauses_us};
use crate::network::{BRIDGE, HOST, Network, address};
use crate::traffic::{self, Traffic};
use crate::vm::{DEBIAN, PATIENCE, Stock, Vm};

/// A boot in emulation and what is done in it.
const LIMIT: Duration = Duration::from_secs(300);
/// How often the vmm is replaced under the Debian.
const TIMES: usize = 20;
/// How many lines the small guest counts, and how often the vmm is replaced meanwhile. Thousands of lines without
/// a pause lose their guest in emulation, whether its vmm is replaced or not.
const LINES: u32 = 300;
const UNDER_LINES: usize = 5;
/// How often its driver lets go of its disk.
const REBINDS: u32 = 6;
const BETWEEN: Duration = Duration::from_millis(300);
/// What no guest may say that has seen nothing but pauses.
const COMPLAINTS: &str = "soft lockup|hung_task|rcu.*stall|NETDEV WATCHDOG|WARNING: CPU|BUG:|I/O error|\
    clocksource.*(unstable|skew)|is not a head";
/// How much a reading of both times of day may be off, in ms.
const SLACK_MS: i64 = 100;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::guest(
            "vmm_replaced_under_debian_keeps_its_connection_its_disk_and_its_clocks",
            debian,
        )
        .within(LIMIT)
        .only_on_x86(SAVED),
        Case::guest(
            "vmm_replaced_while_a_guest_counts_and_lets_go_of_its_disk_loses_no_line",
            counting,
        )
        .within(LIMIT)
        .only_on_x86(SAVED),
    ]
}

fn replace(context: &Context, name: &str) -> Result<()> {
    quietly(context, &["restart", name, "vmm", "--wait"]).map(drop)
}

/// Verifies blocks on the third disk again and again; and on each processor sees to it that time does not
/// go back.
const WORK: &str = "\
    ((while [ ! -e /run/stop ]; do \
     fio --name=v --filename=/dev/vdc --size=4M --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio \
     --direct=1 --verify=crc32c --verify_fatal=1 > /run/fio 2>&1 || { touch /run/bad; break; }; \
     echo round >> /run/rounds; done; touch /run/done) & \
     for c in 0 1; do taskset -c $c sh -c 'p=0; while [ ! -e /run/stop ]; do \
     read u _ < /proc/uptime; u=${u%.*}${u#*.}; [ $u -ge $p ] || touch /run/backward; p=$u; \
     sleep 0.1; done' & done)";

fn debian(context: &Context) -> Result<()> {
    let files = context.dir().join("files");
    std::fs::create_dir(&files)?;
    let _network = Network::make(context, &files)?;
    let root = context.debian_root("root.img")?;
    let tool = traffic::tool(context)?;
    let scratch = context.sparse_file("scratch", 8 << 20)?;
    let builder = context.vm("replaced").boots(Stock::DEFAULT, DEBIAN);
    let builder = builder
        .arg("--disk", format!("path={},queues=2", root.display()))
        .arg("--disk", format!("path={},readonly", tool.display()))
        .arg("--disk", format!("path={}", scratch.display()))
        .arg("--net", format!("tap=tap0,bridge={BRIDGE},queues=2"));
    let mut vm = builder.cpus(2).mem_mib(512).start()?;
    vm.console().wait_for("login: ", 0, BOOT)?;
    vm.log_in()?;
    traffic::install_tool(&mut vm)?;
    address(&mut vm)?;
    vm.sh("dmesg -C")?;
    let traffic = Traffic::start(&mut vm, HOST)?;
    vm.sh(WORK)?;
    let ahead_ms = ahead_ms(&mut vm)?;

    let mut pauses_us = Vec::new();
    for _ in 0..TIMES {
        replace(context, vm.name())?;
        traffic.goes_on()?;
        // Only the last events are kept.
        pauses_us.extend(vmm_pauses_us(&events(context, "replaced")?).last().copied());
    }

    let now_ahead_ms = self::ahead_ms(&mut vm)?;
    println!("the guest's time of day was {ahead_ms:?} ms ahead, and is {now_ahead_ms:?} ms ahead");
    ensure!(
        ahead_ms.0 <= now_ahead_ms.1 + SLACK_MS && now_ahead_ms.0 <= ahead_ms.1 + SLACK_MS,
        "its clock has gone wrong"
    );
    let back = traffic.finish(&mut vm)?;
    vm.sh("touch /run/stop; until [ -e /run/done ]; do sleep 0.1; done; cat /run/fio; [ ! -e /run/bad ]")?;
    let rounds = vm.sh("wc -l < /run/rounds")?;
    vm.sh("[ ! -e /run/backward ]")?;
    let (complaints, _) = vm.sh_status(&format!("dmesg | grep -E '{COMPLAINTS}'"))?;
    ensure!(complaints.is_empty(), "the guest complains: {complaints}");
    ensure!(pauses_us.len() == TIMES, "{pauses_us:?}");
    println!(
        "SEEN vmm_replaced_under_debian times={TIMES} bytes={} fio_rounds={rounds} pauses_us={pauses_us:?}",
        back.bytes
    );
    vm.type_line("systemctl poweroff")?;
    vm.expect_exit(0)
}

fn host_ms() -> Result<i64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(now.as_millis())?)
}

/// How far the guest's time of day is ahead of the host's: at least, and at most.
fn ahead_ms(vm: &mut Vm) -> Result<(i64, i64)> {
    let before = host_ms()?;
    let guest: i64 = vm.sh("date +%s%3N")?.parse().context("date")?;
    Ok((guest - host_ms()?, guest - before))
}

fn counting(context: &Context) -> Result<()> {
    let mut vm = start(context, "counting", "shell maxcpus=1")?;
    prepare(&mut vm)?;
    sh(&mut vm, "dmesg -c > /dev/null; [ $(nproc) = 1 ]")?;
    let name = vm.name().to_owned();

    vm.type_line(&format!(
        "echo; i=0; while [ $i -lt {LINES} ]; do echo \"<$i>\"; i=$((i+1)); sleep 0.01; done; sleep 0.2; echo counted''up"
    ))?;
    vm.wait_for("<10>", PATIENCE)?;
    for _ in 0..UNDER_LINES {
        replace(context, &name)?;
    }
    vm.wait_for("countedup", PATIENCE)?;
    let text = vm.console().text();
    let lines = text.lines().filter_map(|line| {
        let number = line.trim().strip_prefix('<')?.strip_suffix('>')?;
        number.parse::<u32>().ok()
    });
    let lines: Vec<u32> = lines.collect();
    let wrong = lines.iter().zip(0..).find(|(line, nth)| **line != *nth);
    ensure!(
        lines.len() == LINES as usize && wrong.is_none(),
        "{} lines; the first that is wrong is {wrong:?}",
        lines.len()
    );

    // The second processor starts where the vmm that was to start it is gone.
    sh(
        &mut vm,
        "echo 1 > /sys/devices/system/cpu/cpu1/online; [ $(nproc) = 2 ]",
    )?;

    let during = rebind_while_replaced(context, &name, &mut vm)?;
    sh(&mut vm, "D=$(disk); fill $D new 0 && holds $D new 0")?;
    sh(
        &mut vm,
        "! dmesg | grep -iE 'lockup|stall|unstable|skew|I/O error'",
    )?;
    println!("SEEN vmm_replaced_while_counting lines={LINES} replaced_during_rebinds={during}");
    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)
}

/// Replaces the vmm again and again while the driver lets go of its disk and takes it back. How often.
fn rebind_while_replaced(context: &Context, name: &str, vm: &mut Vm) -> Result<usize> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| {
            let mut times = 0;
            while !stop.load(Ordering::Relaxed) {
                replace(context, name)?;
                times += 1;
                // Emulated, a guest needs longer than a pause to get anywhere.
                std::thread::sleep(BETWEEN);
            }
            Ok(times)
        });
        let rebound = (0..REBINDS).try_for_each(|_| {
            sh(
                vm,
                "D=$(disk); dd if=/tmp/old of=/dev/$D bs=64k oflag=direct conv=notrunc 2>/dev/null & \
                 V=$(bound); echo $V > /sys/bus/virtio/drivers/virtio_blk/unbind; wait; \
                 echo $V > /sys/bus/virtio/drivers/virtio_blk/bind; until [ -n \"$(disk)\" ]; do sleep 0.05; done",
            )
        });
        stop.store(true, Ordering::Relaxed);
        let replaced = match replacing.join() {
            Ok(replaced) => replaced,
            Err(_) => bail!("a thread panicked"),
        };
        rebound?;
        replaced
    })
}
