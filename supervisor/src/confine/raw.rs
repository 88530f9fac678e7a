// SPDX-License-Identifier: Apache-2.0
//! System calls of [`super`] that no library wraps.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// The capabilities that writing a child's uid_map and gid_map takes.
const KEPT: [libc::c_int; 2] = [CAP_SETGID, CAP_SETUID];
const CAP_SETGID: libc::c_int = 6;
const CAP_SETUID: libc::c_int = 7;
/// More than any kernel has.
const CAPABILITIES: libc::c_int = 64;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// SECBIT_NOROOT and SECBIT_NO_CAP_AMBIENT_RAISE, each with its lock: user 0 gets no capabilities.
const SECUREBITS: libc::c_ulong = 0b1100_0011;

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;

const SCHED_CORE: libc::c_int = 62;
const SCHED_CORE_CREATE: libc::c_ulong = 1;
/// PIDTYPE_TGID: every thread of the process.
const WHOLE_PROCESS: libc::c_ulong = 1;

/// Takes a core-scheduling cookie for this process and all that it will start: meanwhile only they
/// run on the other threads of a core.
pub(super) fn take_core() -> nix::Result<()> {
    let (create, whom) = (SCHED_CORE_CREATE, WHOLE_PROCESS);
    // SAFETY: PR_SCHED_CORE_CREATE takes integers.
    Errno::result(unsafe { libc::prctl(SCHED_CORE, create, 0_u64, whom, 0_u64) }).map(drop)
}

/// A procfs of this pid namespace, with nothing but processes in it, mounted nowhere.
pub(super) fn own_proc() -> nix::Result<OwnedFd> {
    // SAFETY: fsopen reads a C string.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"proc".as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    set_string(&context, c"subset", c"pid")?;
    let (none, number) = (std::ptr::null::<libc::c_char>(), context.as_raw_fd());
    let create = FSCONFIG_CMD_CREATE;
    // SAFETY: this command takes neither key nor value.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, number, create, none, none, 0) };
    Errno::result(made)?;
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: fsmount takes no pointers.
    let mount = unsafe { libc::syscall(libc::SYS_fsmount, number, FSMOUNT_CLOEXEC, attributes) };
    owned(mount)
}

fn set_string(context: &OwnedFd, key: &CStr, value: &CStr) -> nix::Result<()> {
    let (number, command) = (context.as_raw_fd(), FSCONFIG_SET_STRING);
    let (key, value) = (key.as_ptr(), value.as_ptr());
    // SAFETY: key and value are C strings, which the call reads.
    let set = unsafe { libc::syscall(libc::SYS_fsconfig, number, command, key, value, 0) };
    Errno::result(set).map(drop)
}

fn owned(returned: libc::c_long) -> nix::Result<OwnedFd> {
    let number = RawFd::try_from(Errno::result(returned)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the call succeeded, so the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Wipes the jailer's environment from memory: it is the user's.
pub(super) fn forget_environment() {
    unsafe extern "C" {
        static mut environ: *mut *mut libc::c_char;
    }
    // SAFETY: this process has one thread, and reads no variable after this.
    let mut next = unsafe { environ };
    while !next.is_null() {
        // SAFETY: the array ends in null, and this is not behind its end yet.
        let variable = unsafe { *next };
        if variable.is_null() {
            return;
        }
        // SAFETY: a variable is a C string.
        let len = unsafe { libc::strlen(variable) };
        // SAFETY: the string is that long, in memory that was given to this process alone.
        unsafe { variable.write_bytes(0, len) };
        // SAFETY: this was not the null at the end, so something follows.
        next = unsafe { next.add(1) };
    }
}

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Keeps only the capabilities in [`KEPT`], which count in this user namespace only, and closes
/// every way to others.
pub(super) fn drop_capabilities() -> nix::Result<()> {
    // SAFETY: PR_SET_SECUREBITS takes an integer.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, SECUREBITS) })?;
    for capability in (0..CAPABILITIES).filter(|number| !KEPT.contains(number)) {
        // SAFETY: PR_CAPBSET_DROP takes an integer.
        match Errno::result(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability) }) {
            // This kernel has no capability of that number.
            Ok(_) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    let bits = KEPT.iter().fold(0, |bits, number| bits | 1_u32 << number);
    let kept = Sets {
        effective: bits,
        permitted: bits,
        inheritable: 0,
    };
    let none = Sets {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    };
    let header = Header {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let (header, sets) = (&raw const header, [kept, none]);
    // SAFETY: both are laid out as capset(2) says for version 3, whose two sets are in `sets`.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header, sets.as_ptr()) }).map(drop)
}
