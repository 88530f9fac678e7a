// SPDX-License-Identifier: Apache-2.0
//! Asking the kernel what it has, without changing anything.

#![allow(unsafe_code)]

use nix::errno::Errno;

const GET_MDWE: libc::c_int = 66;
const SCHED_CORE: libc::c_int = 62;
const SCHED_CORE_GET: libc::c_ulong = 0;
const LANDLOCK_VERSION: libc::c_uint = 1;

/// Whether a filter can end a process.
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

/// Which version of Landlock there is.
pub(super) fn landlock() -> Result<String, String> {
    let (attr, size) = (std::ptr::null::<libc::c_void>(), 0_usize);
    // SAFETY: with this flag the call takes no attributes.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            attr,
            size,
            LANDLOCK_VERSION,
        )
    };
    match Errno::result(version) {
        Ok(version) => Ok(format!("ABI {version}")),
        Err(Errno::EOPNOTSUPP) => {
            Err("it is built in but off: add landlock to lsm= at boot".into())
        }
        Err(_) => Err("this kernel is older than 5.13, or built without it".into()),
    }
}

/// Whether memory can be kept from becoming executable.
pub(super) fn mdwe() -> Result<String, String> {
    // SAFETY: PR_GET_MDWE takes integers.
    match Errno::result(unsafe { libc::prctl(GET_MDWE, 0_u64, 0_u64, 0_u64, 0_u64) }) {
        Ok(_) => Ok("written memory never becomes executable".into()),
        Err(_) => Err("this kernel is older than 6.3".into()),
    }
}

/// Whether other VMs can be kept from the cores of one.
pub(super) fn core_scheduling() -> Result<String, String> {
    let mut cookie = 0_u64;
    let (get, whom, cookie) = (SCHED_CORE_GET, 0_u64, &raw mut cookie);
    // SAFETY: PR_SCHED_CORE_GET writes a u64, which outlives the call.
    match Errno::result(unsafe { libc::prctl(SCHED_CORE, get, 0_u64, whom, cookie) }) {
        Ok(_) => Ok("a cookie for each VM".into()),
        Err(Errno::ENODEV) => Ok("not needed: no two threads share a core".into()),
        Err(_) => {
            Err("this kernel has no CONFIG_SCHED_CORE: switch SMT off between tenants".into())
        }
    }
}
