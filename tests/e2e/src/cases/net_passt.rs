// SPDX-License-Identifier: Apache-2.0
//! How NICs of passt are had: a passt that cannot be had; one through which a guest reaches out
//! and is reached. Each case is in a network namespace of its own, which ends with it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use super::Case;
use super::bad_input::{ERROR, complains};
use super::net_launch::{guest, run};
use crate::context::Context;
use crate::network::{enter_empty, ip};
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Vm};

/// A name that the host's resolver knows, and its address.
const NAME: &str = "host.test";
const NAMED: &str = "192.0.2.77";
/// What listens on the host's loopback.
const SECRET_PORT: u16 = 7001;

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
    let kernel = NoOsKernel::new().spin();
    let command = |net: &str| -> Result<Command> {
        let builder = context.vm("bad").boots_no_os(&kernel).arg("--net", net);
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

/// A program that others talk to, gone when dropped.
struct Running(Child);

impl Running {
    fn new(program: &str, arguments: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments.split(' ')).stdin(Stdio::null());
        Ok(Self(command.spawn().with_context(|| program.to_owned())?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another host, in a network namespace of its own.
struct Outside(Running);

impl Outside {
    /// It has 192.0.2.1, and this namespace 192.0.2.2.
    fn new() -> Result<Self> {
        let outside = Self(Running::new("unshare", "-n sleep 1000")?);
        let deadline = Instant::now() + PATIENCE;
        let own = std::fs::read_link("/proc/self/ns/net").ok();
        let theirs = format!("/proc/{}/ns/net", outside.pid());
        while std::fs::read_link(&theirs).ok() == own {
            ensure!(Instant::now() < deadline, "there is no other namespace");
            std::thread::sleep(Duration::from_millis(10));
        }
        ip(&format!(
            "link add ext type veth peer name out netns {}",
            outside.pid()
        ))?;
        outside.run("ip addr add 192.0.2.1/24 dev out")?;
        outside.run("ip link set out up")?;
        ip("addr add 192.0.2.2/24 dev ext")?;
        ip("link set ext up")?;
        ip("route add default via 192.0.2.1")?;
        Ok(outside)
    }

    fn pid(&self) -> u32 {
        self.0.0.id()
    }

    fn run(&self, command: &str) -> Result<String> {
        run("nsenter", &format!("-n -t {} {command}", self.pid()))
    }

    fn start(&self, command: &str) -> Result<Running> {
        Running::new("nsenter", &format!("-n -t {} {command}", self.pid()))
    }
}

/// What the host has on its loopback: its resolver, and something that is nobody's business.
fn loopback(context: &Context) -> Result<[Running; 2]> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    run("mount", "--make-rprivate /")?;
    let resolver = context.file("resolv.conf", b"nameserver 127.0.0.1\n")?;
    let secret = context.file("secret", b"secret\n")?;
    run(
        "mount",
        &format!("--bind {} /etc/resolv.conf", resolver.display()),
    )?;
    let names = "--keep-in-foreground --conf-file=/dev/null --user=root --pid-file --no-resolv \
                 --no-hosts --bind-interfaces --listen-address=127.0.0.1";
    let names = format!("{names} --address=/{NAME}/{NAMED}");
    let files = format!(
        "-U TCP-LISTEN:{SECRET_PORT},bind=127.0.0.1,fork OPEN:{},rdonly",
        secret.display()
    );
    Ok([
        Running::new("dnsmasq", &names)?,
        Running::new("socat", &files)?,
    ])
}

/// The guest finds what the host's resolver knows, and nothing else of the host's loopback.
fn asks_for_a_name(vm: &mut Vm) -> Result<()> {
    vm.sh(
        "printf '#!/bin/sh\n[ $1 != bound ] || echo nameserver $dns > /etc/resolv.conf\n' \
         > /bin/told && chmod +x /bin/told && udhcpc -i eth0 -n -q -t 10 -T 1 -s /bin/told",
    )?;
    let found = vm.sh(&format!("busybox nslookup -type=a {NAME}"))?;
    ensure!(found.contains(NAMED), "{found}");

    let own = run("socat", &format!("-u TCP:127.0.0.1:{SECRET_PORT} -"))?;
    ensure!(own == "secret\n", "the host itself gets {own:?}");
    let told = vm.sh("sed -n 's/^nameserver //p' /etc/resolv.conf")?;
    // The gateway stands for the host where passt is not told otherwise.
    for address in [told.as_str(), "192.0.2.1"] {
        let (said, _) = vm.sh_status(&format!("nc -w 3 {address} {SECRET_PORT} < /dev/null"))?;
        ensure!(!said.contains("secret"), "{address} is the host's loopback");
    }
    Ok(())
}

fn passt(context: &Context) -> Result<()> {
    enter_empty()?;
    let outside = Outside::new()?;
    let server = outside.start("socat TCP-LISTEN:7000,fork EXEC:cat")?;
    let loopback = loopback(context)?;
    let mut vm = guest(context, "user,forward=tcp:8080:80")?;
    vm.sh("dhcp")?;
    let inspected: Value =
        serde_json::from_str(&context.run_ok(&["inspect", vm.name(), "--json"])?)?;
    let nic = &inspected["devices"][0];
    ensure!(
        nic["role"] == "net.user \"net0\"" && nic["state"] == "serving" && nic["link_up"] == true,
        "{nic}"
    );
    let addresses = vm.sh("ip addr show dev eth0")?;
    ensure!(addresses.contains("192.0.2.2/24"), "{addresses}");
    let echoed = vm.sh("echo from the guest | nc -w 10 192.0.2.1 7000")?;
    ensure!(echoed == "from the guest", "{echoed:?}");
    asks_for_a_name(&mut vm)?;
    vm.sh("(echo from inside | nc -l -p 80 > /tmp/came) > /dev/null 2>&1 &")?;
    ensure!(reached()? == "from inside\n", "another answer");

    let passt = living()?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", passt.pid))?;
    ensure!(!status.contains("Uid:\t0\t"), "passt is root: {status}");

    // A guest that reboots gets another one.
    vm.type_line("reboot -f")?;
    vm.wait_for("GUEST mac=", PATIENCE)?;
    vm.line()?;
    ensure!(procs::has_ended(passt.pid), "the passt before lives on");
    vm.sh("dhcp")?;
    ensure!(vm.sh("echo again | nc -w 10 192.0.2.1 7000")? == "again");
    // So does one whose passt dies.
    kill(living()?.pid, Signal::SIGKILL)?;
    let echoed = vm.sh("n=0; until [ -n \"$came\" ] || [ $((n += 1)) -gt 20 ]; do \
         came=$(echo once more | nc -w 2 192.0.2.1 7000); done; echo $came")?;
    ensure!(echoed == "once more", "{echoed:?}");

    vm.type_line("poweroff -f")?;
    vm.expect_exit(0)?;
    drop((server, loopback, outside));
    ensure!(
        procs::wait_for_none(PATIENCE).is_empty(),
        "something lives on"
    );
    Ok(())
}

/// The passt of the VM.
fn living() -> Result<procs::Process> {
    let mut all = procs::living_descendants().into_iter();
    let found = all.find(|process| process.name.starts_with("passt"));
    found.context("there is no passt")
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
