// SPDX-License-Identifier: Apache-2.0
//! How network cards are had: taps that exist, are made or cannot be had; passt; the cable. Each case
//! is in a network namespace of its own, which ends with it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Case;
use super::bad_input::{ERROR, complains};
use crate::context::Context;
use crate::network::{enter_empty, ip};
use crate::procs;
use crate::tiny_kernel::TinyKernel;
use crate::vm::{PATIENCE, Stock, Vm};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("net_taps_that_cannot_be_had_are_refused", wrong_taps),
        Case::native("net_tap_of_a_running_vm_is_refused", busy),
        Case::native(
            "net_tap_that_is_made_is_hooked_up_and_gone_afterwards",
            made,
        ),
        Case::native("net_tap_that_existed_is_given_back_as_it_was", given_back),
        Case::native("net_up_script_that_fails_leaves_nothing", up_fails),
        Case::native("net_killed_jailer_has_its_debts_settled", swept),
        Case::native("net_passt_that_cannot_be_had_is_refused", no_passt),
        Case::guest(
            "net_guest_on_a_bridge_reaches_the_host_and_its_cable_is_pulled",
            bridged,
        ),
        Case::guest("net_guest_of_passt_reaches_out_and_is_reached", passt),
    ]
}

fn run(program: &str, arguments: &str) -> Result<String> {
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
    let kernel = TinyKernel::new().say("spinning\n").spin();
    let mut vm = context
        .vm(name)
        .boots_tiny(&kernel)
        .arg("--net", net)
        .start()?;
    vm.wait_for("spinning", PATIENCE)?;
    Ok(vm)
}

fn stop(context: &Context, mut vm: Vm) -> Result<()> {
    context.run_ok(&["stop", "--force", vm.name()])?;
    vm.wait_exit(PATIENCE).map(drop)
}

/// A VM with this card is refused in one line that says all this.
fn refused(context: &Context, net: &str, words: &[&str]) -> Result<()> {
    let kernel = TinyKernel::new().spin();
    let builder = context.vm("bad").boots_tiny(&kernel).arg("--net", net);
    complains(&mut builder.command()?, ERROR, words)
}

fn wrong_taps(context: &Context) -> Result<()> {
    enter_empty()?;
    ip("tuntap add single mode tap")?;
    ip("tuntap add multi mode tap multi_queue")?;
    ip("tuntap add tun mode tun")?;
    let missing = context.dir().join("missing");
    let script = format!("tap=t0,up={}", missing.display());
    for (net, words) in [
        (
            "tap=single,queues=2",
            ["net.tap", "\"single\"", "one queue"],
        ),
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
    complains(&mut other, ERROR, &["net1", "not a network card"])?;
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

fn no_passt(context: &Context) -> Result<()> {
    enter_empty()?;
    let taken = std::net::TcpListener::bind("0.0.0.0:0")?;
    let port = taken.local_addr()?.port();
    let fake = context.dir().join("path");
    std::fs::create_dir(&fake)?;
    let kernel = TinyKernel::new().spin();
    let command = |net: &str| -> Result<Command> {
        let builder = context.vm("bad").boots_tiny(&kernel).arg("--net", net);
        let mut command = builder.command()?;
        command.env("PATH", &fake);
        Ok(command)
    };
    complains(
        &mut command("user")?,
        ERROR,
        &["net.user", "passt", "apt install"],
    )?;
    let program = fake.join("passt");
    let old = "#!/bin/sh\necho \"passt: unrecognized option '--vhost-user'\" >&2\nexit 1\n";
    std::fs::write(&program, old)?;
    run("chmod", &format!("+x {}", program.display()))?;
    complains(
        &mut command("user")?,
        ERROR,
        &["net.user", "too old", "tap=NAME"],
    )?;
    let net = format!("user,forward=tcp:{port}:80");
    complains(
        &mut command(&net)?,
        ERROR,
        &["net.forward", &port.to_string(), "in use"],
    )
}

/// A stock guest with a card, and a shell in it.
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

/// Another host, in a network namespace of its own; gone when dropped.
struct Outside(Child);

impl Outside {
    /// It has 192.0.2.1, and this namespace 192.0.2.2.
    fn new() -> Result<Self> {
        let child = Command::new("unshare")
            .args(["-n", "sleep", "1000"])
            .spawn()?;
        let outside = Self(child);
        let deadline = Instant::now() + PATIENCE;
        let own = std::fs::read_link("/proc/self/ns/net").ok();
        let theirs = format!("/proc/{}/ns/net", outside.0.id());
        while std::fs::read_link(&theirs).ok() == own {
            ensure!(Instant::now() < deadline, "there is no other namespace");
            std::thread::sleep(Duration::from_millis(10));
        }
        ip(&format!(
            "link add ext type veth peer name out netns {}",
            outside.0.id()
        ))?;
        outside.run("ip addr add 192.0.2.1/24 dev out")?;
        outside.run("ip link set out up")?;
        ip("addr add 192.0.2.2/24 dev ext")?;
        ip("link set ext up")?;
        ip("route add default via 192.0.2.1")?;
        Ok(outside)
    }

    fn run(&self, command: &str) -> Result<String> {
        run("nsenter", &format!("-n -t {} {command}", self.0.id()))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn passt(context: &Context) -> Result<()> {
    enter_empty()?;
    let outside = Outside::new()?;
    let server = format!(
        "-n -t {} socat TCP-LISTEN:7000,fork EXEC:cat",
        outside.0.id()
    );
    let mut server = Command::new("nsenter")
        .args(server.split(' '))
        .stdin(Stdio::null())
        .spawn()?;
    let mut vm = guest(context, "user,forward=tcp:8080:80")?;
    vm.sh("dhcp")?;
    let addresses = vm.sh("ip addr show dev eth0")?;
    ensure!(addresses.contains("192.0.2.2/24"), "{addresses}");
    let echoed = vm.sh("echo from the guest | nc -w 10 192.0.2.1 7000")?;
    ensure!(echoed == "from the guest", "{echoed:?}");
    vm.sh("(echo from inside | nc -l -p 80 > /tmp/came) > /dev/null 2>&1 &")?;
    ensure!(reached()? == "from inside\n", "another answer");

    let passt = procs::living_descendants()
        .into_iter()
        .find(|p| p.name.starts_with("passt"));
    let passt = passt.context("there is no passt")?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", passt.pid))?;
    ensure!(!status.contains("Uid:\t0\t"), "passt is root: {status}");

    // A guest that reboots gets another one.
    vm.type_line("reboot -f")?;
    vm.wait_for("GUEST mac=", PATIENCE)?;
    vm.line()?;
    ensure!(procs::has_ended(passt.pid), "the passt before lives on");
    vm.sh("dhcp")?;
    ensure!(vm.sh("echo again | nc -w 10 192.0.2.1 7000")? == "again");

    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)?;
    let _ = kill(Pid::from_raw(i32::try_from(server.id())?), Signal::SIGTERM);
    server.wait()?;
    drop(outside);
    ensure!(
        procs::wait_for_none(PATIENCE).is_empty(),
        "something lives on"
    );
    Ok(())
}

/// What the guest answers on the forwarded port, as soon as it listens.
fn reached() -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = run("socat", "-T 10 -u TCP:127.0.0.1:8080 -")?;
        if !answer.is_empty() {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("nobody answers on the forwarded port");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
