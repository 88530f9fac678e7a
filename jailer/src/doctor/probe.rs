// SPDX-License-Identifier: Apache-2.0
//! Asks the kernel what it supports, without changing anything.

#![allow(unsafe_code)]

use host::lacking::NO_MDWE;
use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::getpid;
use rustix::thread::{CoreSchedulingScope, core_scheduling_cookie};

const GET_MDWE: libc::c_int = 66;

/// The kinds of namespaces: name, flag beside CLONE_NEWUSER, and kernel option.
const NAMESPACES: [(&str, libc::c_int, &str); 7] = [
    ("user namespaces", 0, "CONFIG_USER_NS"),
    ("mount namespaces", libc::CLONE_NEWNS, "CONFIG_NAMESPACES"),
    ("pid namespaces", libc::CLONE_NEWPID, "CONFIG_PID_NS"),
    ("net namespaces", libc::CLONE_NEWNET, "CONFIG_NET_NS"),
    ("ipc namespaces", libc::CLONE_NEWIPC, "CONFIG_IPC_NS"),
    ("uts namespaces", libc::CLONE_NEWUTS, "CONFIG_UTS_NS"),
    ("cgroup namespaces", libc::CLONE_NEWCGROUP, "CONFIG_CGROUPS"),
];

/// Each kind of namespace, and whether a process can have one of its own.
pub(super) fn namespaces() -> impl Iterator<Item = (&'static str, Result<String, String>)> {
    NAMESPACES.into_iter().map(|(what, flag, option)| {
        let has = match unshared(libc::CLONE_NEWUSER | flag) {
            Ok(()) => Ok("one for each process".into()),
            Err(Errno::EINVAL) => Err(format!("this kernel was built without {option}")),
            Err(Errno::ENOSPC | Errno::EUSERS) => {
                let kind = what.split(' ').next().unwrap_or(what);
                let kind = if flag == libc::CLONE_NEWNS {
                    "mnt"
                } else {
                    kind
                };
                Err(format!(
                    "there are too many: sysctl user.max_{kind}_namespaces"
                ))
            }
            Err(errno) => Err(format!("{}: {FORBIDDEN}", errno.desc())),
        };
        (what, has)
    })
}

const FORBIDDEN: &str = "user namespaces are forbidden here: sysctl \
    kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0, or be \
    root outside of a container";

/// Whether a child of ours can unshare these namespaces.
fn unshared(flags: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the child makes two system calls and runs nothing of this process's.
    let child = unsafe { libc::fork() };
    if Errno::result(child)? == 0 {
        // SAFETY: unshare takes no pointers.
        let errno = Errno::result(unsafe { libc::unshare(flags) }).err();
        // SAFETY: _exit takes no pointers and never returns.
        unsafe { libc::_exit(errno.map_or(0, |errno| errno as libc::c_int)) }
    }
    match waitpid(Pid::from_raw(child), None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, errno) => Err(Errno::from_raw(errno)),
        _ => Err(Errno::EPERM),
    }
}

/// Whether a seccomp filter can kill a process.
pub(super) fn seccomp() -> Result<String, String> {
    let file = "/proc/sys/kernel/seccomp/actions_avail";
    let actions = std::fs::read_to_string(file).unwrap_or_default();
    match actions
        .split_whitespace()
        .any(|word| word == "kill_process")
    {
        true => Ok("filters that end the process".into()),
        false => {
            Err("this kernel is older than 4.14, or built without CONFIG_SECCOMP_FILTER".into())
        }
    }
}

/// Whether the kernel can keep written memory from becoming executable.
pub(super) fn mdwe() -> Result<String, String> {
    // SAFETY: PR_GET_MDWE takes integers.
    match Errno::result(unsafe { libc::prctl(GET_MDWE, 0_u64, 0_u64, 0_u64, 0_u64) }) {
        Ok(_) => Ok("written memory never becomes executable".into()),
        Err(_) => Err(NO_MDWE.into()),
    }
}

/// Whether core scheduling can keep other VMs off a VM's cores.
pub(super) fn core_scheduling() -> Result<String, String> {
    match core_scheduling_cookie(getpid(), CoreSchedulingScope::Thread) {
        Ok(_) => Ok("a cookie for each VM".into()),
        Err(rustix::io::Errno::NODEV) => Ok("not needed: no two threads share a core".into()),
        Err(_) => {
            Err("this kernel has no CONFIG_SCHED_CORE: switch SMT off between tenants".into())
        }
    }
}
