// SPDX-License-Identifier: Apache-2.0
//! How network cards of passt are had: a passt that cannot be had; one through which a guest reaches out
//! and is reached. Each case is in a network namespace of its own, which ends with it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Case;
use super::bad_input::{ERROR, complains};
use super::net_launch::{guest, run};
use crate::context::Context;
use crate::network::{enter_empty, ip};
use crate::procs;
use crate::tiny_kernel::TinyKernel;
use crate::vm::PATIENCE;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("net_passt_that_cannot_be_had_is_refused", no_passt),
        Case::guest("net_guest_of_passt_reaches_out_and_is_reached", passt),
    ]
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
    let inspected: Value =
        serde_json::from_str(&context.run_ok(&["inspect", vm.name(), "--json"])?)?;
    let card = &inspected["devices"][0];
    ensure!(
        card["role"] == "net.user \"net0\""
            && card["state"] == "serving"
            && card["link_up"] == true,
        "{card}"
    );
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
