// SPDX-License-Identifier: Apache-2.0
//! A NIC that is changed in every way while a stock Debian uses it: by the guest, which
//! switches offloads and queues, and lets go of it; by the host, which pulls its cable, and kills and
//! replaces its backend. One TCP connection sees all of it, and loses nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::Case;
use super::net::BOOT;
use crate::context::Context;
use crate::inspect::{process, quietly};
use crate::network::{BRIDGE, HOST, Network, address};
use crate::traffic::{self, Traffic};
use crate::vm::{DEBIAN, PATIENCE, Stock, Vm};

/// A boot in emulation and what is done in it.
const LIMIT: Duration = Duration::from_secs(300);
/// The NIC's id, and what its backend's process is called.
const NIC: &str = "nic";
const ROLE: &str = "net nic";
/// What a driver can do without.
const OFFLOADS: [&str; 8] = [
    "tx-checksum-ip-generic",
    "tx-scatter-gather",
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
    "generic-receive-offload",
    "rx-gro-hw",
];
/// How often its driver lets go of it.
const REBINDS: u32 = 3;
/// How often its backend is killed; after so many deaths the supervisor is told to forget them.
const KILLS: u32 = 9;
const FORGIVEN_AFTER: u32 = 3;
/// How often its backend is replaced by another program.
const UPGRADES: u32 = 3;
/// What no guest may say that has seen nothing but pauses.
const COMPLAINTS: &str = "is not a head|soft lockup|hung_task|NETDEV WATCHDOG|WARNING: CPU|BUG:";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::guest(
            "net_nic_changed_under_traffic_keeps_its_connection",
            changes,
        )
        .within(LIMIT),
    ]
}

fn changes(context: &Context) -> Result<()> {
    let files = context.dir().join("files");
    std::fs::create_dir(&files)?;
    let _network = Network::make(context, &files)?;
    let root = context.debian_root("root.img")?;
    let tool = traffic::tool(context)?;
    let builder = context.vm("changes").boots(Stock::DEFAULT, DEBIAN);
    let builder = builder
        .arg("--disk", format!("path={},queues=2", root.display()))
        .arg("--disk", format!("path={},readonly", tool.display()))
        .arg(
            "--net",
            format!("tap=tap0,bridge={BRIDGE},queues=2,id={NIC}"),
        );
    let mut vm = builder.cpus(2).mem_mib(512).start()?;
    vm.console().wait_for("login: ", 0, BOOT)?;
    vm.log_in()?;
    traffic::install_tool(&mut vm)?;
    address(&mut vm)?;
    vm.sh("dmesg -C")?;
    let traffic = Traffic::start(&mut vm, HOST)?;

    for (what, change) in [
        (
            "offloads",
            offloads as fn(&Context, &mut Vm, &Traffic) -> Result<()>,
        ),
        ("queues", queues),
        ("cable", cable),
        ("rebinds", rebinds),
        ("kills", kills),
        ("upgrades", upgrades),
        ("roll-back", roll_back),
    ] {
        let begun = Instant::now();
        change(context, &mut vm, &traffic)?;
        traffic.goes_on()?;
        println!("{what}: {:.1} s", begun.elapsed().as_secs_f32());
    }

    let back = traffic.finish(&mut vm)?;
    let (complaints, _) = vm.sh_status(&format!("dmesg | grep -E '{COMPLAINTS}'"))?;
    ensure!(complaints.is_empty(), "the guest complains: {complaints}");
    println!(
        "SEEN changes bytes={} rebinds={REBINDS} kills={KILLS} upgrades={UPGRADES} pauses_ms={}",
        back.bytes, back.pauses
    );
    vm.type_line("systemctl poweroff")?;
    vm.expect_exit(0)
}

/// Switches off and on again whatever depends on the device.
fn offloads(_: &Context, vm: &mut Vm, _: &Traffic) -> Result<()> {
    for offload in OFFLOADS {
        vm.sh(&format!(
            "for s in off on; do \
             ethtool -K eth0 {offload} $s && ethtool -k eth0 | grep -q '{offload}: '$s'$' || exit 1; \
             done"
        ))?;
    }
    Ok(())
}

/// Goes from two pairs of queues to one and back, again and again.
fn queues(_: &Context, vm: &mut Vm, traffic: &Traffic) -> Result<()> {
    for pairs in [1, 2, 1, 2] {
        vm.sh(&format!("ethtool -L eth0 combined {pairs}"))?;
        let shown = vm.sh("ethtool -l eth0 | awk '/^Combined/ {n = $2} END {print n}'")?;
        ensure!(shown == pairs.to_string(), "{shown} pairs, not {pairs}");
        traffic.goes_on()?;
    }
    Ok(())
}

fn cable(context: &Context, vm: &mut Vm, _: &Traffic) -> Result<()> {
    let name = vm.name().to_owned();
    for (cable, carrier) in [("down", 0), ("up", 1), ("down", 0), ("up", 1)] {
        context.run_ok(&["link", &name, NIC, cable])?;
        vm.sh(&format!(
            "for i in $(seq 100); do read c < /sys/class/net/eth0/carrier; \
             [ $c = {carrier} ] && break; sleep 0.1; done; [ $c = {carrier} ]"
        ))?;
    }
    Ok(())
}

/// The driver lets go of the NIC with frames under way both ways.
fn rebinds(_: &Context, vm: &mut Vm, traffic: &Traffic) -> Result<()> {
    for _ in 0..REBINDS {
        vm.sh(
            "d=/sys/bus/virtio/drivers/virtio_net; v=$(ls $d | grep '^virtio'); \
             echo $v > $d/unbind && [ ! -e /sys/class/net/eth0 ] && echo $v > $d/bind",
        )?;
        address(vm)?;
        traffic.goes_on()?;
    }
    Ok(())
}

fn kills(context: &Context, vm: &mut Vm, traffic: &Traffic) -> Result<()> {
    for round in 1..=KILLS {
        let victim = process(context, vm.name(), ROLE)?;
        kill(victim, Signal::SIGKILL)?;
        serves_after(context, vm, victim)?;
        traffic.goes_on()?;
        if round % FORGIVEN_AFTER == 0 {
            quietly(context, &["restart", vm.name(), NIC, "--wait"])?;
            traffic.goes_on()?;
        }
    }
    Ok(())
}

/// Waits until another process serves the NIC.
fn serves_after(context: &Context, vm: &Vm, old: nix::unistd::Pid) -> Result<()> {
    let begun = Instant::now();
    while process(context, vm.name(), ROLE).is_ok_and(|pid| pid == old) {
        ensure!(begun.elapsed() < PATIENCE, "nobody follows {old}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn upgrades(context: &Context, vm: &mut Vm, traffic: &Traffic) -> Result<()> {
    let binary = context.program("net-backend").display().to_string();
    for _ in 0..UPGRADES {
        let arguments = ["upgrade", vm.name(), NIC, "--binary", &binary];
        quietly(context, &arguments)?;
        traffic.goes_on()?;
    }
    Ok(())
}

/// A new program that is found fit, and then dies at its first frame.
fn roll_back(context: &Context, vm: &mut Vm, traffic: &Traffic) -> Result<()> {
    let binary = context.program("backend-that-dies").display().to_string();
    let outcome = context.run(&["upgrade", vm.name(), NIC, "--binary", &binary])?;
    let said = String::from_utf8_lossy(&outcome.stderr);
    let told = outcome.status.code() == Some(5) && said.contains("the new backend");
    ensure!(told, "not rolled back: {said}");
    traffic.goes_on()
}
