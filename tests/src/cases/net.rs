// SPDX-License-Identifier: Apache-2.0
//! A network card whose device model is another process: a stock Debian on a bridge uses it as people
//! do.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Case;
use crate::context::Context;
use crate::network::{BRIDGE, HOST, Network, noise, ssh};
use crate::vm::{DEBIAN, Stock, Vm};

/// A boot in emulation and what is done in it.
const LIMIT: Duration = Duration::from_secs(300);
/// For the boot alone, where the machine does other things too.
const BOOT: Duration = Duration::from_secs(150);
/// What is fetched, in MiB.
const FILE_MIB: usize = 20;

pub(super) fn cases() -> Vec<Case> {
    vec![Case::guest("net_on_a_bridge_serves_a_debian_as_people_use_it", uses).within(LIMIT)]
}

fn uses(context: &Context) -> Result<()> {
    let files = context.dir().join("files");
    std::fs::create_dir(&files)?;
    let sum = noise(&files.join("noise"), FILE_MIB)?;
    let _network = Network::make(context, &files)?;
    let root = context.debian_root("root.img")?;
    let builder = context.vm("net").boots(Stock::DEFAULT, DEBIAN);
    let net = format!("tap=tap0,bridge={BRIDGE},queues=2,mac=02:77:00:00:00:02");
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
    let fetched = vm.sh(&format!(
        "wget -q -T 20 -t 1 -O - http://{HOST}/noise | sha256sum | cut -d' ' -f1"
    ))?;
    ensure!(
        fetched == sum,
        "what was fetched is not what was served: {fetched}"
    );
    let said = ssh(&address, "hostname; echo 'in by ssh'")?;
    ensure!(said == "guest\nin by ssh", "{said:?}");

    vm.type_line("systemctl poweroff")?;
    vm.expect_exit(0)
}

/// The guest's address, once a server has given it one.
fn address(vm: &mut Vm) -> Result<String> {
    vm.sh(
        "for i in $(seq 100); do a=$(ip -4 -o addr show dev eth0 scope global 2> /dev/null | \
         awk '{print $4}'); [ -n \"$a\" ] && break; sleep 0.2; done; echo ${a%/*}; [ -n \"$a\" ]",
    )
}
