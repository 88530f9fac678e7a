// SPDX-License-Identifier: Apache-2.0
//! A TCP stream between a guest and its host, each way: Bulkhead, QEMU with the kernel's vhost-net, and
//! QEMU with its own device model. The same Debian runs in all three at the same time, on one bridge,
//! and they are measured in turns, so that what else the machine does hits all alike.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::median;
use crate::context::Context;
use crate::network::{BRIDGE, Network, address, ip};
use crate::qemu;
use crate::vm::{DEBIAN, PATIENCE, Stock, Vm};

/// How often each is measured each way, and for how many seconds.
const RUNS: usize = 3;
const SECONDS: u32 = 2;
const MEM_MIB: u32 = 384;
/// For a boot in emulation beside other guests.
const BOOT: Duration = Duration::from_secs(180);

/// Who serves a guest's NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Bulkhead,
    VhostNet,
    QemuUserspace,
}

const SERVERS: [Server; 3] = [Server::Bulkhead, Server::VhostNet, Server::QemuUserspace];

/// A guest that waits to be measured with.
struct Guest {
    server: Server,
    vm: Vm,
    address: String,
    /// Gbit/s to the guest and from it, of each run.
    to_guest: Vec<f64>,
    from_guest: Vec<f64>,
}

/// Runs of each in turns, a table, and how ours compares.
pub(super) fn run(context: &Context) -> Result<String> {
    let files = context.dir().join("files");
    std::fs::create_dir(&files)?;
    let _network = Network::make(context, &files)?;
    let guests = SERVERS.map(|server| Guest::start(context, server));
    let mut guests = guests.into_iter().collect::<Result<Vec<_>>>()?;
    println!("Gbit/s, medians of {RUNS} runs of {SECONDS} s, in turns");
    for run in 0..=RUNS {
        for guest in &mut guests {
            let to_guest = stream(&guest.address, &[])?;
            let from_guest = stream(&guest.address, &["-R"])?;
            // The first run warms up.
            if run > 0 {
                guest.to_guest.push(to_guest);
                guest.from_guest.push(from_guest);
            }
        }
    }
    println!("{:16} {:>9} {:>10}", "", "to guest", "from guest");
    for guest in &guests {
        let (to, from) = guest.medians();
        println!("{:16} {to:9.3} {from:10.3}", format!("{:?}", guest.server));
    }
    let ours = guests.iter().find(|guest| guest.server == Server::Bulkhead);
    let ours = ours.context("nobody ran Bulkhead")?.medians();
    let ratio = |server| {
        let theirs = guests.iter().find(|guest| guest.server == server);
        let theirs = theirs.map_or((f64::NAN, f64::NAN), Guest::medians);
        // Both ways weigh the same.
        (ours.0 / theirs.0 * (ours.1 / theirs.1)).sqrt()
    };
    let result = format!(
        "vs_qemu_userspace={:.2} vs_vhost_net={:.2}",
        ratio(Server::QemuUserspace),
        ratio(Server::VhostNet)
    );
    guests.into_iter().try_for_each(Guest::stop)?;
    Ok(result)
}

impl Guest {
    fn start(context: &Context, server: Server) -> Result<Self> {
        let mut vm = match server {
            Server::Bulkhead => bulkhead(context)?,
            Server::VhostNet => vhost_net(context)?,
            Server::QemuUserspace => qemu_with_tap(context, "user", "vhost=off", 4)?,
        };
        vm.hush();
        vm.console().wait_for("login: ", 0, BOOT)?;
        vm.log_in()?;
        let address = address(&mut vm)?;
        vm.sh("iperf3 -s -D")?;
        Ok(Self {
            server,
            vm,
            address,
            to_guest: Vec::new(),
            from_guest: Vec::new(),
        })
    }

    fn medians(&self) -> (f64, f64) {
        let of = |values: &[f64]| median(values.iter().copied());
        (of(&self.to_guest), of(&self.from_guest))
    }

    fn stop(mut self) -> Result<()> {
        self.vm.type_line("systemctl poweroff")?;
        self.vm.expect_exit(0)
    }
}

fn bulkhead(context: &Context) -> Result<Vm> {
    let root = context.debian_root("bulkhead.img")?;
    let builder = context.vm("bench").boots(Stock::DEFAULT, DEBIAN);
    builder
        .arg("--disk", format!("path={}", root.display()))
        .arg("--net", format!("tap=ours0,bridge={BRIDGE}"))
        .cpus(1)
        .mem_mib(MEM_MIB.into())
        .start()
}

fn vhost_net(context: &Context) -> Result<Vm> {
    let loaded = Command::new("modprobe").arg("vhost_net").status();
    ensure!(
        loaded.is_ok_and(|status| status.success()),
        "the host has no vhost_net"
    );
    qemu_with_tap(context, "vhost", "vhost=on", 3)
}

/// QEMU with a disk of its own and a tap on the bridge.
fn qemu_with_tap(context: &Context, name: &str, how: &str, number: u8) -> Result<Vm> {
    let root = context.debian_root(&format!("{name}.img"))?;
    ip(&format!("tuntap add {name}0 mode tap"))?;
    ip(&format!("link set {name}0 master {BRIDGE} up"))?;
    let mut command = qemu::command(MEM_MIB);
    command.args(["-accel", "kvm", "-cpu", "host", "-smp", "1"]);
    let drive = format!("file={},format=raw,if=none,id=disk", root.display());
    command.args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
    let netdev = format!("tap,id=net,ifname={name}0,script=no,downscript=no,{how}");
    let device = format!("virtio-net-pci,netdev=net,romfile=,mac=02:77:00:00:00:{number:02x}");
    command.args(["-netdev", &netdev, "-device", &device]);
    qemu::boots(context, &mut command, DEBIAN)?;
    Vm::spawn(context.name_of(name), &mut command)
}

/// One run: Gbit/s, as the receiver counts.
fn stream(address: &str, direction: &[&str]) -> Result<f64> {
    let begun = Instant::now();
    loop {
        let output = Command::new("iperf3")
            .args(["-J", "-t", &SECONDS.to_string(), "-c", address])
            .args(direction)
            .output()
            .context("cannot start iperf3")?;
        let answer: Value = serde_json::from_slice(&output.stdout).context("iperf3's answer")?;
        let rate = answer["end"]["sum_received"]["bits_per_second"].as_f64();
        if let Some(rate) = rate {
            return Ok(rate / 1e9);
        }
        // Its server listens anew for each run, some time after the one before.
        let refused = answer["error"].as_str();
        let refused = refused.is_some_and(|error| error.contains("Connection refused"));
        ensure!(
            refused && begun.elapsed() < PATIENCE,
            "iperf3 measured nothing: {answer}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}
