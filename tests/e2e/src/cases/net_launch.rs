// SPDX-License-Identifier: Apache-2.0
//! How NICs with a tap are had: taps that exist, are made or cannot be had; the cable. Each
//! case is in a network namespace of its own, which ends with it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};

use super::bad_input::{ERROR, complains};
use super::{Case, ONCE, not_on};
use crate::context::Context;
use crate::machine::Machine;
use crate::network::{enter_empty, ip};
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Stock, Vm};

pub(super) fn cases() -> Vec<Case> {
    let taps = [
        Case::native("net_taps_that_cannot_be_had_are_refused", wrong_taps),
        Case::native("net_tap_of_a_running_vm_is_refused", busy),
        Case::native(
            "net_tap_that_is_made_is_hooked_up_and_gone_afterwards",
            made,
        ),
        Case::native("net_tap_that_existed_is_given_back_as_it_was", given_back),
        Case::native("net_up_script_that_fails_leaves_nothing", up_fails),
        Case::native("net_killed_jailer_has_its_debts_settled", swept),
    ];
    let bridged = Case::guest(
        "net_guest_on_a_bridge_reaches_the_host_and_its_cable_is_pulled",
        bridged,
    );
    not_on(Machine::SECOND, ONCE, [taps.into()])
        .chain([bridged])
        .collect()
}

pub(super) fn run(program: &str, arguments: &str) -> Result<String> {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .with_context(|| program.to_owned())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What `ip` says of an interface; `None` if there is none.
fn link(name: &str) -> Option<String> {
    run("ip", &format!("-o link show dev {name}")).ok()
}

/// A program that notes its argument, and the file it notes it in.
fn noting(context: &Context, name: &str, status: i32) -> Result<(PathBuf, PathBuf)> {
    let noted = context.dir().join(format!("{name}.noted"));
    let text = format!(
        "#!/bin/sh\necho \"$1\" >> {}\nexit {status}\n",
        noted.display()
    );
    let program = context.file(name, text.as_bytes())?;
    run("chmod", &format!("+x {}", program.display()))?;
    Ok((program, noted))
}

fn noted(file: &PathBuf) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// A VM whose guest turns in circles.
fn spinning(context: &Context, name: &str, net: &str) -> Result<Vm> {
    let kernel = NoOsKernel::new().say("spinning\n").spin();
    let mut vm = context
        .vm(name)
        .boots_no_os(&kernel)
        .arg("--net", net)
        .start()?;
    vm.wait_for("spinning", PATIENCE)?;
    Ok(vm)
}

fn stop(context: &Context, mut vm: Vm) -> Result<()> {
    context.run_ok(&["stop", "--force", vm.name()])?;
    vm.wait_exit(PATIENCE).map(drop)
}

/// A VM with this NIC is refused in one line that says all this.
fn refused(context: &Context, net: &str, words: &[&str]) -> Result<()> {
    let kernel = NoOsKernel::new().spin();
    let builder = context.vm("bad").boots_no_os(&kernel).arg("--net", net);
    complains(&mut builder.command()?, ERROR, words)
}

fn wrong_taps(context: &Context) -> Result<()> {
    enter_empty()?;
    ip("tuntap add single mode tap")?;
    // Without `dev` it is taken for an abbreviation.
    ip("tuntap add dev multi mode tap multi_queue")?;
    ip("tuntap add tun mode tun")?;
    let missing = context.dir().join("missing");
    let script = format!("tap=t0,up={}", missing.display());
    for (net, words) in [
        (
            "tap=single,queues=2",
            ["net.tap", "\"single\"", "one queue"],
        ),
        ("tap=multi", ["net.tap", "\"multi\"", "say queues=2"]),
        ("tap=tun", ["net.tap", "\"tun\"", "not a tap"]),
        ("tap=lo", ["net.tap", "\"lo\"", "not a tap"]),
        (
            "tap=t0,bridge=br0",
            ["net.bridge", "\"br0\"", "does not exist"],
        ),
        ("tap=t0,bridge=lo", ["net.bridge", "\"lo\"", "not a bridge"]),
        (script.as_str(), ["net.up", "missing", "No such file"]),
        (
            "tap=sixteen-letters-",
            ["net.tap", "sixteen-letters-", "15"],
        ),
        (
            "tap=t0,mac=01:00:00:00:00:01",
            ["net.mac", "01:00:00:00:00:01", "multicast"],
        ),
        ("tap=t0,mac=2:0", ["net.mac", "2:0", "six bytes"]),
        ("tap=t0,mtu=67", ["net.mtu", "67", "68 to"]),
        ("tap=t0,queues=9", ["net.queues", "9", "1 to 8"]),
        (
            "user,forward=tcp:80",
            ["net.forward", "tcp:80", "tcp:HOST:GUEST"],
        ),
    ] {
        refused(context, net, &words)?;
    }
    ensure!(link("t0").is_none(), "a tap is left");
    Ok(())
}

fn busy(context: &Context) -> Result<()> {
    enter_empty()?;
    let vm = spinning(context, "first", "tap=t0")?;
    refused(context, "tap=t0", &["net.tap", "\"t0\"", "in use"])?;
    ensure!(link("t0").is_some(), "the tap of the first is gone");
    stop(context, vm)
}

fn made(context: &Context) -> Result<()> {
    enter_empty()?;
    ip("link add br0 type bridge")?;
    ip("link set br0 up")?;
    let ((up, upped), (down, downed)) = (noting(context, "up", 0)?, noting(context, "down", 0)?);
    let options = format!(
        "tap=t0,queues=2,mtu=1400,bridge=br0,up={},down={}",
        up.display(),
        down.display()
    );
    let vm = spinning(context, "made", &options)?;
    let found = link("t0").context("there is no tap")?;
    for word in ["UP", "mtu 1400", "master br0"] {
        ensure!(found.contains(word), "{word} is not in {found}");
    }
    ensure!(noted(&upped) == "t0\n" && noted(&downed).is_empty());
    let inspected = context.run_ok(&["inspect", vm.name()])?;
    ensure!(inspected.contains("net net0"), "{inspected}");
    context.run_ok(&["link", vm.name(), "net0", "down"])?;
    let mut other = context.bulkhead();
    other.args(["link", vm.name(), "net1", "down"]);
    complains(&mut other, &[5], &["net1", "not a network card"])?;
    stop(context, vm)?;
    ensure!(link("t0").is_none(), "the tap is left");
    ensure!(noted(&downed) == "t0\n", "the down script did not run");
    Ok(())
}

/// An existing tap, as it is when nobody has touched it.
fn existing() -> Result<()> {
    enter_empty()?;
    ip("link add br0 type bridge")?;
    ip("tuntap add t0 mode tap")
}

fn expect_untouched() -> Result<()> {
    let found = link("t0").context("the tap is gone")?;
    ensure!(found.contains("mtu 1500"), "{found}");
    ensure!(
        !found.contains("master") && !found.contains("UP"),
        "{found}"
    );
    Ok(())
}

fn given_back(context: &Context) -> Result<()> {
    existing()?;
    let vm = spinning(context, "given", "tap=t0,mtu=9000,bridge=br0")?;
    let found = link("t0").context("there is no tap")?;
    for word in ["UP", "mtu 9000", "master br0"] {
        ensure!(found.contains(word), "{word} is not in {found}");
    }
    stop(context, vm)?;
    expect_untouched()
}

fn up_fails(context: &Context) -> Result<()> {
    existing()?;
    let ((up, _), (down, downed)) = (noting(context, "up", 7)?, noting(context, "down", 0)?);
    let scripts = format!("up={},down={}", up.display(), down.display());
    for tap in ["t0", "t1"] {
        let net = format!("tap={tap},bridge=br0,mtu=9000,{scripts}");
        refused(context, &net, &["net.up", "status 7"])?;
    }
    ensure!(noted(&downed) == "t0\nt1\n", "the down script did not run");
    ensure!(link("t1").is_none(), "a tap is left");
    expect_untouched()
}

fn swept(context: &Context) -> Result<()> {
    existing()?;
    let (down, downed) = noting(context, "down", 0)?;
    let net = format!("tap=t0,mtu=9000,bridge=br0,down={}", down.display());
    let mut vm = spinning(context, "swept", &net)?;
    let jailer = procs::living_descendants()
        .into_iter()
        .find(|process| process.name == "jailer")
        .context("there is no jailer")?;
    kill(jailer.pid, Signal::SIGKILL)?;
    vm.wait_exit(PATIENCE)?;
    ensure!(
        procs::wait_for_none(PATIENCE).is_empty(),
        "something lives on"
    );
    context.run(&["ps"])?;
    ensure!(noted(&downed) == "t0\n", "the down script did not run");
    expect_untouched()
}

/// A stock guest with a NIC, and a shell in it.
pub(super) fn guest(context: &Context, net: &str) -> Result<Vm> {
    let builder = context
        .vm("small")
        .boots(Stock::DEFAULT, "net")
        .mem_mib(256);
    let mut vm = builder.cpus(2).arg("--net", net).start()?;
    vm.wait_for("GUEST mac=", PATIENCE)?;
    vm.line()?;
    Ok(vm)
}

/// Waits until the guest sees its cable like this.
fn expect_carrier(vm: &mut Vm, carrier: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while vm.sh("cat /sys/class/net/eth0/carrier")? != carrier {
        ensure!(
            Instant::now() < deadline,
            "the carrier does not become {carrier}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn bridged(context: &Context) -> Result<()> {
    enter_empty()?;
    ip("link add br0 type bridge")?;
    ip("addr add 192.0.2.1/24 dev br0")?;
    ip("link set br0 up")?;
    let mut vm = guest(context, "tap=t0,bridge=br0,queues=2,mac=02:00:00:00:00:07")?;
    ensure!(vm.sh("cat /sys/class/net/eth0/address")? == "02:00:00:00:00:07");
    vm.sh("ip addr add 192.0.2.7/24 dev eth0")?;
    vm.sh("ping -c 3 -w 20 192.0.2.1")?;
    run("ping", "-c 3 -w 20 192.0.2.7")?;

    let name = vm.name().to_owned();
    expect_carrier(&mut vm, "1")?;
    context.run_ok(&["link", &name, "net0", "down"])?;
    expect_carrier(&mut vm, "0")?;
    // A cable that is pulled stays so, whoever is behind it.
    context.run_ok(&["restart", &name, "net0", "--wait"])?;
    expect_carrier(&mut vm, "0")?;
    context.run_ok(&["link", &name, "net0", "up"])?;
    expect_carrier(&mut vm, "1")?;
    vm.sh("ping -c 3 -w 20 192.0.2.1")?;

    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)?;
    ensure!(link("t0").is_none(), "the tap is left");
    Ok(())
}
