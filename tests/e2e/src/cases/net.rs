// SPDX-License-Identifier: Apache-2.0
//! A NIC whose device model is another process: a stock Debian on a bridge uses it as people
//! do.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, ensure};

use super::Case;
use super::net_launch::guest;
use crate::context::Context;
use crate::network::{BRIDGE, HOST, HOST_V6, MTU, Network, address, noise, ssh};
use crate::vm::{DEBIAN, Stock, Vm};

/// A boot in emulation and what is done in it.
const LIMIT: Duration = Duration::from_secs(300);
/// For the boot alone, where the machine does other things too.
pub(super) const BOOT: Duration = Duration::from_secs(150);
/// What is fetched, in MiB: much once, and less where that would tell nothing new.
const MUCH_MIB: usize = 100;
const LESS_MIB: usize = 4;
/// How far clocks may be apart, of which one was set to the second some time ago.
const CLOCKS_MAX_S: u64 = 120;

pub(super) fn cases() -> Vec<Case> {
    vec![Case::guest("net_on_a_bridge_serves_a_debian_as_people_use_it", uses).within(LIMIT)]
}

fn uses(context: &Context) -> Result<()> {
    let files = context.dir().join("files");
    std::fs::create_dir(&files)?;
    let much = noise(&files.join("much"), MUCH_MIB)?;
    let less = noise(&files.join("less"), LESS_MIB)?;
    let _network = Network::make(context, &files)?;
    let root = context.debian_root("root.img")?;
    let builder = context.vm("net").boots(Stock::DEFAULT, DEBIAN);
    let net = format!("tap=tap0,bridge={BRIDGE},queues=2,mtu={MTU},mac=02:77:00:00:00:02");
    let builder = builder
        .arg("--disk", format!("path={}", root.display()))
        .arg("--net", net);
    let mut vm = builder.cpus(2).mem_mib(512).start()?;
    vm.console().wait_for("login: ", 0, BOOT)?;
    vm.log_in()?;

    let address = address(&mut vm)?;
    ensure!(
        address.starts_with("10.77.0."),
        "no address of ours: {address}"
    );
    ensure!(vm.sh("cat /sys/class/net/eth0/address")? == "02:77:00:00:00:02");
    vm.sh(&format!("ping -q -c 5 -i 0.2 {HOST}"))?;
    fetches(&mut vm, &format!("{HOST}/much"), &much)?;
    sets_its_clock(&mut vm)?;
    let said = ssh(&address, "hostname; echo 'in by ssh'")?;
    ensure!(said == "guest\nin by ssh", "{said:?}");
    sends_long_frames(&mut vm)?;
    takes_an_address_from_a_router(&mut vm)?;
    fetches(&mut vm, &format!("[{HOST_V6}]/less"), &less)?;
    talks_to_another_guest(context, &mut vm, &address)?;

    vm.type_line("systemctl poweroff")?;
    vm.expect_exit(0)
}

/// Downloads noise from a web server.
fn fetches(vm: &mut Vm, file: &str, sum: &str) -> Result<()> {
    let fetched = vm.sh(&format!(
        "wget -q -T 20 -t 1 -O - http://{file} | sha256sum | cut -d' ' -f1"
    ))?;
    ensure!(
        fetched == sum,
        "what was fetched from {file} is not what was served: {fetched}"
    );
    Ok(())
}

/// Takes the time from the network, after it had another.
fn sets_its_clock(vm: &mut Vm) -> Result<()> {
    vm.sh("date -s '2001-02-03 04:05:06'")?;
    ensure!(vm.sh("date +%Y")? == "2001", "the clock was not set");
    vm.sh(&format!(
        "date -s \"$(wget -T 20 -t 1 -S --spider http://{HOST}/less 2>&1 | sed -n 's/^ *Date: //p')\""
    ))?;
    let guest: u64 = vm.sh("date +%s")?.parse()?;
    let host = UNIX_EPOCH.elapsed()?.as_secs();
    ensure!(
        guest.abs_diff(host) < CLOCKS_MAX_S,
        "the guest's clock is at {guest} s, the host's at {host} s"
    );
    Ok(())
}

/// Frames as long as the NIC's MTU, which it was told by the device.
fn sends_long_frames(vm: &mut Vm) -> Result<()> {
    let mtu = vm.sh("cat /sys/class/net/eth0/mtu")?;
    ensure!(mtu == MTU.to_string(), "the guest's MTU is {mtu}");
    let payload = MTU - 28; // headers of IPv4 and ICMP
    vm.sh(&format!("ping -q -c 3 -i 0.2 -M do -s {payload} {HOST}"))?;
    let (said, status) = vm.sh_status(&format!(
        "ping -q -c 1 -W 1 -M do -s {} {HOST}",
        payload + 1
    ))?;
    ensure!(status != 0, "a frame longer than the MTU was sent: {said}");
    Ok(())
}

/// IPv6 as Debian's own configuration has it, which this one leaves out.
fn takes_an_address_from_a_router(vm: &mut Vm) -> Result<()> {
    vm.sh("d=/etc/systemd/network/80-ether.network.d; mkdir $d; \
         printf '[Network]\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=yes\n' > $d/v6.conf; \
         systemctl restart systemd-networkd")?;
    vm.sh("for i in $(seq 150); do ip -6 -o addr show dev eth0 scope global | grep -q 'inet6 fd77:' && break; sleep 0.2; done")?;
    vm.sh(&format!("ping -6 -q -c 3 -i 0.2 {HOST_V6}"))
        .map(drop)
}

/// Another guest on the same bridge.
fn talks_to_another_guest(context: &Context, vm: &mut Vm, address: &str) -> Result<()> {
    const OTHER: &str = "10.77.0.200";
    let mut other = guest(context, &format!("tap=tap1,bridge={BRIDGE},mtu={MTU}"))?;
    other.sh(&format!("ip addr add {OTHER}/24 dev eth0"))?;
    other.sh(&format!("ping -q -c 3 -w 20 {address}"))?;
    let sum = other.sh(
        "mkdir /tmp/web && head -c 4194304 /dev/urandom > /tmp/web/noise && \
         busybox httpd -p 80 -h /tmp/web && sha256sum < /tmp/web/noise | cut -d' ' -f1",
    )?;
    vm.sh(&format!("ping -q -c 3 -i 0.2 {OTHER}"))?;
    fetches(vm, &format!("{OTHER}/noise"), &sum)?;
    other.type_line("poweroff -f")?;
    other.expect_exit(0)
}
