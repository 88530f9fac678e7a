// SPDX-License-Identifier: Apache-2.0
//! Backends that die, or cannot be reached, while a guest reboots: the reboot waits, and goes on.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::kills::{moment, youngest};
use super::{Case, ONCE};
use crate::context::Context;
use crate::inspect::quietly;
use crate::machine::Machine;
use crate::network::enter_empty;
use crate::no_os_kernel::NoOsKernel;
use crate::vm::{PATIENCE, Vm};

/// So much memory takes the vmm a while to allocate: a backend is killed meanwhile.
const PREFAULTED_MIB: u64 = 1024;
/// One more reboot in a row is a storm of the guest's.
const REBOOTS: u32 = 4;
/// The VMs of a storm, each with that many reboots.
const STORM_VMS: u32 = 3;
const SOAK_VMS: u32 = 50;
/// The last moment after the request for a reboot at which a backend is killed.
const LATEST_US: u32 = 150_000;
/// A guest that could start has started by then.
const SETTLED: Duration = Duration::from_millis(500);

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native(
            "backend_killed_while_the_guest_reboots_is_followed_by_another",
            killed,
        ),
        Case::native(
            "disk_stalled_while_the_guest_reboots_is_brought_back_by_a_restart",
            |context| stalled(context, &["restart", "--wait"]),
        )
        .not_on(Machine::SECOND, ONCE),
        Case::native(
            "vm_whose_disk_stalled_while_the_guest_reboots_ends_when_it_is_stopped",
            |context| stalled(context, &["stop"]),
        )
        .not_on(Machine::SECOND, ONCE),
        Case::native(
            "foreign_backend_gone_while_the_guest_reboots_is_waited_for",
            foreign,
        )
        .not_on(Machine::SECOND, ONCE),
        Case::native(
            "backends_killed_at_any_moment_of_reboots_end_nothing",
            |context| storm(context, STORM_VMS),
        )
        .not_on(Machine::SECOND, ONCE),
        Case::native(
            "backends_killed_at_any_moment_of_many_reboots_end_nothing",
            |context| storm(context, SOAK_VMS),
        )
        .soak(Duration::from_secs(900)),
    ]
}

/// Says hello, and reboots when a `q` is typed.
fn kernel() -> NoOsKernel {
    NoOsKernel::new().say("hello\n").echo_until_q().reset()
}

fn disk(context: &Context) -> Result<String> {
    let image = context.sparse_file("image", 1 << 20)?;
    Ok(format!("path={}", image.display()))
}

/// A VM whose start takes a while.
fn start(context: &Context, flag: &str, device: &str) -> Result<Vm> {
    let builder = context.vm("reboots").boots_no_os(&kernel());
    let builder = builder.mem_mib(PREFAULTED_MIB).flag("--prefault");
    let mut vm = builder.arg(flag, device).start()?;
    vm.wait_for("hello\n", PATIENCE)?;
    Ok(vm)
}

/// The next process of this name after `before`.
fn next(name: &str, before: Option<Pid>) -> Result<Pid> {
    let begun = Instant::now();
    loop {
        match youngest(name) {
            Some(pid) if Some(pid) != before => return Ok(pid),
            _ => ensure!(begun.elapsed() < PATIENCE, "there is no other {name}"),
        }
    }
}

fn info(context: &Context, vm: &Vm) -> Result<Value> {
    let text = quietly(context, &["inspect", vm.name(), "--json"])?;
    serde_json::from_str(&text).context("inspect --json")
}

fn ends(context: &Context, vm: &mut Vm) -> Result<()> {
    context.run_ok(&["stop", vm.name(), "--force"])?;
    vm.expect_exit(0)
}

/// The backend of the fresh vmm is killed before that vmm has connected to it, and the next one, too.
fn killed(context: &Context) -> Result<()> {
    let mut vm = start(context, "--disk", &disk(context)?)?;
    let before = youngest("vmm");

    vm.type_text("q")?;
    // While the old vmm goes, its backend may be followed by others, which do not count.
    next("vmm", before)?;
    let mut backend = None;
    for _ in 0..2 {
        let fresh = next("blk-backend", backend)?;
        kill(fresh, Signal::SIGKILL)?;
        backend = Some(fresh);
    }

    vm.wait_for("hello\n", PATIENCE)?;
    let info = info(context, &vm)?;
    let (reboots, restarts) = (&info["reboots"], &info["devices"][0]["restarts"]);
    println!("SEEN reboots={reboots} restarts={restarts}");
    ensure!(reboots == 1, "{reboots} reboots");
    ensure!(
        restarts.as_u64() >= Some(2),
        "{restarts} backends were replaced"
    );
    ends(context, &mut vm)
}

/// Backends die until no other follows, while the fresh vmm stands still; then somebody does something.
fn stalled(context: &Context, remedy: &[&str]) -> Result<()> {
    let mut vm = start(context, "--disk", &disk(context)?)?;
    let before = youngest("vmm");
    vm.type_text("q")?;
    let fresh = next("vmm", before)?;
    kill(fresh, Signal::SIGSTOP)?;
    let begun = Instant::now();
    while info(context, &vm)?["devices"][0]["state"] != "stalled" {
        ensure!(begun.elapsed() < PATIENCE, "some backend comes for ever");
        if let Some(backend) = youngest("blk-backend") {
            // It may have been replaced meanwhile.
            let _ = kill(backend, Signal::SIGKILL);
        }
    }
    kill(fresh, Signal::SIGCONT)?;
    std::thread::sleep(SETTLED);
    let state = info(context, &vm)?["state"].clone();
    ensure!(state == "starting", "the VM is {state}");
    let hellos = vm.console().text().matches("hello").count();
    ensure!(hellos == 1, "the guest ran without its disk");

    let [verb, flags @ ..] = remedy else {
        anyhow::bail!("nothing is done");
    };
    let device = ["disk0"].iter().filter(|_| *verb == "restart");
    let words = [*verb, vm.name()].into_iter().chain(device.copied());
    let words: Vec<_> = words.chain(flags.iter().copied()).collect();
    context.run_ok(&words)?;

    if *verb == "stop" {
        return vm.expect_exit(0);
    }
    vm.wait_for("hello\n", PATIENCE)?;
    ends(context, &mut vm)
}

/// Our backend as another program's.
struct Foreign(Child);

impl Foreign {
    fn start(context: &Context, socket: &Path, disk: &str) -> Result<Self> {
        let mut command = Command::new(context.program("blk-backend"));
        command.arg("--socket-path").arg(socket);
        let child = command
            .args(["--disk", disk])
            .stdin(Stdio::null())
            .spawn()
            .context("blk-backend")?;
        let foreign = Self(child);
        let begun = Instant::now();
        while !socket.exists() {
            ensure!(begun.elapsed() < PATIENCE, "no program listens");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(foreign)
    }

    fn send(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.0.id())?), signal)?)
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A backend that is connected and answers nothing is killed while the fresh vmm waits for it.
fn foreign(context: &Context) -> Result<()> {
    let (socket, disk) = (context.dir().join("socket"), disk(context)?);
    let first = Foreign::start(context, &socket, &disk)?;
    let device = format!("type=blk,socket={}", socket.display());
    let mut vm = start(context, "--vhost-user", &device)?;

    vm.type_text("q")?;
    drop(first);
    std::fs::remove_file(&socket).ok();
    let before = youngest("vmm");
    let deaf = Foreign::start(context, &socket, &disk)?;
    deaf.send(Signal::SIGSTOP)?;
    next("vmm", before)?;
    // As long as a vmm would wait at the first start.
    std::thread::sleep(Duration::from_secs(6));
    drop(deaf);
    std::fs::remove_file(&socket).ok();
    let _last = Foreign::start(context, &socket, &disk)?;

    vm.wait_for("hello\n", PATIENCE)?;
    ends(context, &mut vm)
}

/// Backends are killed at any moment of a reboot, before it, during it and after it.
fn storm(context: &Context, vms: u32) -> Result<()> {
    // Where nobody else has taps.
    enter_empty()?;
    let disk = disk(context)?;
    let (mut struck, mut while_rebooting) = (0, 0);
    for number in 0..vms {
        let builder = context.vm(&format!("storm{number}")).boots_no_os(&kernel());
        let builder = builder.mem_mib(64).flag("--prefault").arg("--disk", &disk);
        let mut vm = builder.arg("--net", "tap=t0").start()?;
        vm.wait_for("hello\n", PATIENCE)?;
        for reboot in 0..REBOOTS {
            let name = ["blk-backend", "net-backend"][usize::from(reboot % 2 == 1)];
            let before = vm.console().text().matches("hello").count();
            vm.type_text("q")?;
            let moment = moment(LATEST_US);
            std::thread::sleep(moment);
            let reboots = vm.console().text().matches("hello").count() == before;
            let hit = youngest(name).is_some_and(|pid| kill(pid, Signal::SIGKILL).is_ok());
            println!("VM {number}: {name} after {moment:?}, hit {hit}, rebooting {reboots}");
            struck += u32::from(hit);
            while_rebooting += u32::from(hit && reboots);
            vm.wait_for("hello\n", PATIENCE)?;
        }
        ends(context, &mut vm)?;
    }
    let all = vms * REBOOTS;
    println!("SEEN reboots={all} struck={struck} while_rebooting={while_rebooting}");
    ensure!(while_rebooting > 0, "nobody was hit during a reboot");
    Ok(())
}
