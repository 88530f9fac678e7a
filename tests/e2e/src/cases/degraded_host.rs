// SPDX-License-Identifier: Apache-2.0
//! Hosts that do not give a VM what it could have: it is told in one line, in the log if the VM can do
//! without, and nothing is left.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::Case;
use super::bad_input::{ERROR, complains};
use super::kills::cgroups;
use crate::context::{Context, need_root};
use crate::mounts;
use crate::no_os_kernel::NoOsKernel;
use crate::procs;
use crate::vm::{PATIENCE, Vm, VmBuilder};

/// All control groups can only be looked at.
pub(super) const CGROUPS_READ_ONLY: &str = "while read -r _ dir kind _; do case $kind in \
    cgroup*) mount -o remount,bind,ro \"$dir\";; esac; done < /proc/mounts";
/// In a user namespace: nobody in it makes another one.
const NO_USER_NAMESPACES: &str = "echo 0 > /proc/sys/user/max_user_namespaces";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::native("host_with_cgroups_read_only_is_told_in_the_log", no_cgroups),
        Case::native("host_with_cgroups_read_only_gives_no_limits", no_limits),
        Case::native(
            "host_that_forbids_user_namespaces_runs_no_vm",
            no_user_namespaces,
        ),
    ]
}

fn machine(context: &Context) -> VmBuilder<'_> {
    let kernel = NoOsKernel::new().say("hello\n").spin();
    context.vm("degraded").boots_no_os(&kernel)
}

/// What is run, with the environment of the case.
fn prepared(context: &Context, mut command: Command) -> Command {
    context.prepare(&mut command);
    command
}

fn nothing_is_left(context: &Context) -> Result<()> {
    let living = procs::wait_for_none(PATIENCE);
    ensure!(living.is_empty(), "processes are left: {living:?}");
    let of_root = context.state_dir("degraded");
    let of_others = context
        .dir()
        .join("bulkhead")
        .join(context.name_of("degraded"));
    for state in [of_root, of_others] {
        ensure!(!state.exists(), "{} is left", state.display());
    }
    let groups = cgroups(&context.name_of("degraded"));
    ensure!(groups.is_empty(), "control groups are left: {groups:?}");
    Ok(())
}

fn no_cgroups(context: &Context) -> Result<()> {
    need_root()?;
    let command = mounts::after(CGROUPS_READ_ONLY, &machine(context).command()?);
    let name = context.name_of("degraded");
    let mut vm = Vm::spawn(name, &mut prepared(context, command))?;
    vm.wait_for("hello\n", PATIENCE)?;
    let log = fs::read_to_string(context.state_dir("degraded").join("log"))?;
    vm.signal(Signal::SIGHUP)?;
    vm.wait_exit(PATIENCE)?;

    println!("{log}");
    for words in ["cannot be made", "Read-only", "no cpu"] {
        let told = |line: &str| line.contains("cgroup") && line.contains(words);
        ensure!(log.lines().any(told), "the log does not say {words:?}");
    }
    nothing_is_left(context)
}

fn no_limits(context: &Context) -> Result<()> {
    need_root()?;
    let limited = machine(context).arg("--limits", "of=vmm,cpu=90");
    let command = mounts::after(CGROUPS_READ_ONLY, &limited.command()?);
    let words = ["limits.cpu", "\"90\"", "no cpu controller"];
    complains(&mut prepared(context, command), ERROR, &words)?;
    nothing_is_left(context)
}

fn no_user_namespaces(context: &Context) -> Result<()> {
    need_root()?;
    // Not root, who would miss users to give to the VM first.
    let kinds = ["--user", "--map-user=1000", "--keep-caps"];
    let command = machine(context).command()?;
    let command = mounts::within(&kinds, NO_USER_NAMESPACES, &command);
    let words = ["namespaces", "user.max_user_namespaces"];
    complains(&mut prepared(context, command), ERROR, &words)?;
    nothing_is_left(context)
}
