// SPDX-License-Identifier: Apache-2.0
//! Child processes held by pidfd from clone on and killed through it: their pid may belong to
//! another process by then.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// Since Linux 5.7; it does not fit into an int.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Clones this process into new namespaces and, if given, the control group `initial_cgroup`.
/// Returns the child's pid and pidfd; `None` in the child.
///
/// # Safety
///
/// Unless this process is single-threaded, the child may only make async-signal-safe calls: a lock
/// may be held by a thread that does not exist in the child.
pub unsafe fn clone(
    namespaces: libc::c_int,
    initial_cgroup: Option<BorrowedFd<'_>>,
) -> nix::Result<Option<(Pid, OwnedFd)>> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from((namespaces | libc::CLONE_PIDFD).cast_unsigned());
    if let Some(initial_cgroup) = initial_cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(initial_cgroup.as_raw_fd().cast_unsigned());
    }
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    let args_ptr = &raw mut args;
    // SAFETY: args is a clone_args of the size given; pidfd outlives the call. Without CLONE_VM the
    // child has its own copy of everything, this stack included. The caller vouches for what the
    // child does.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args_ptr, size_of_val(&args)) };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid => {
            // SAFETY: clone3 succeeded, so with CLONE_PIDFD it stored a new descriptor there.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?;
            Ok(Some((Pid::from_raw(pid), pidfd)))
        }
    }
}

/// A pidfd of a child that is not yet reaped.
pub fn open(child: Pid) -> nix::Result<OwnedFd> {
    let child = rustix::process::Pid::from_raw(child.as_raw()).ok_or(Errno::ESRCH)?;
    let opened = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty());
    opened.map_err(|errno| Errno::from_raw(errno.raw_os_error()))
}

/// Kills a process that is not yet reaped. It may have exited already.
pub fn kill(pidfd: BorrowedFd<'_>) {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
}
