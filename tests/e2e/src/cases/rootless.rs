// SPDX-License-Identifier: Apache-2.0
//! A VM that an ordinary user starts: everything works but users of the VM's own, and the log says so.

use std::fs;
use std::os::unix::fs::chown;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Case;
use super::audit::{compare, roles};
use super::kills::cgroups;
use crate::context::{Context, need_root};
use crate::mounts;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Vm};

/// What each process may do then, on any host.
const RECORD: &str = include_str!("audit/rootless.txt");
/// A user without a name, in a group of the same number and no other.
const USER: u32 = 61_234;

pub(super) fn cases() -> Vec<Case> {
    vec![Case::native(
        "rootless_vm_runs_and_equals_its_record_and_leaves_nothing",
        rootless,
    )]
}

/// `bulkhead` as that user, who may use /dev/kvm.
pub(super) fn as_user(context: &Context, command: &Command) -> Command {
    let mut plain = Command::new(context.dir().join("bin/bulkhead"));
    plain.args(command.get_args());
    let script = format!(
        "mount -t tmpfs kvm /mnt && mknod -m 666 /mnt/kvm c 10 232 \
         && mount --bind /mnt/kvm /dev/kvm \
         && set -- setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\""
    );
    let mut command = mounts::after(&script, &plain);
    context.prepare(&mut command);
    command
}

/// The VM's processes: role and number.
fn processes(context: &Context) -> Result<Vec<(String, u64)>> {
    let mut inspect = Command::new("bulkhead");
    inspect.args(["inspect", &context.name_of("rootless"), "--json"]);
    let told = as_user(context, &inspect).output()?;
    roles(&String::from_utf8(told.stdout)?)
}

/// Kills the disk's backend, and waits for its successor.
fn kill_backend(context: &Context) -> Result<()> {
    let backend = || {
        let all = processes(context)?;
        let found = all.into_iter().find(|(role, _)| role == "blk disk0");
        anyhow::Ok(found.map(|(_, pid)| pid))
    };
    let dead = backend()?.context("no backend")?;
    kill(Pid::from_raw(i32::try_from(dead)?), Signal::SIGKILL)?;
    let begun = Instant::now();
    while backend()?.is_none_or(|pid| pid == dead) {
        ensure!(begun.elapsed() < PATIENCE, "nobody follows {dead}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Copies the programs to where that user is let in, and gives the case's directory to the user.
pub(super) fn programs(context: &Context) -> Result<()> {
    let bin = context.dir().join("bin");
    fs::create_dir(&bin)?;
    for name in ["bulkhead", "jailer", "vmm", "blk-backend", "input-backend"] {
        fs::copy(context.program(name), bin.join(name)).context(name)?;
    }
    Ok(chown(context.dir(), Some(USER), Some(USER))?)
}

fn rootless(context: &Context) -> Result<()> {
    need_root()?;
    let image = context.sparse_file("rootless.img", 1 << 20)?;
    programs(context)?;
    chown(&image, Some(USER), Some(USER))?;
    let kernel = NoOsKernel::new().say("hello\n").spin();
    let builder = context.vm("rootless").boots_no_os(&kernel);
    // On some architectures the button is a device by default.
    let builder = builder.arg("--power-button", "none");
    let disk = format!("path={}", image.display());
    let command = builder.arg("--disk", disk).command()?;
    let name = context.name_of("rootless");

    let mut vm = Vm::spawn(name.clone(), &mut as_user(context, &command))?;
    vm.wait_for("hello\n", PATIENCE)?;

    let audited = compare(&processes(context)?, RECORD);
    let followed = kill_backend(context);
    let state = context.dir().join("bulkhead").join(&name);
    let log = fs::read_to_string(state.join("log"))?;
    println!("{log}");
    vm.signal(Signal::SIGHUP)?;
    vm.wait_exit(PATIENCE)?;
    audited?;
    followed?;
    let words = "not started by root: the VM's processes are all one user";
    ensure!(log.contains(words), "the log does not say so");
    let living = procs::wait_for_none(PATIENCE);
    ensure!(living.is_empty(), "processes are left: {living:?}");
    ensure!(!state.exists(), "{} is left", state.display());
    let groups = cgroups(&name);
    ensure!(groups.is_empty(), "control groups are left: {groups:?}");
    Ok(())
}
