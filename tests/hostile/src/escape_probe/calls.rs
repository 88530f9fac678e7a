// SPDX-License-Identifier: Apache-2.0
//! Every system call number, each in a child of its own, with arguments that no call takes: what the
//! filter stops kills the child with SIGSYS, everything else was let through.

#![allow(unsafe_code)]

use host::seccomp::{Filter, call_name};
use ipc::seccomp::Mode;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::arch;

/// Beyond the last number of any kernel so far.
const NUMBERS: u32 = 512;
/// No descriptor, no address, no length, no set of flags.
const NOTHING: libc::c_long = -1;

/// The names of the calls that get past what is inherited, and past `filter`.
pub(crate) fn let_through(filter: Option<Filter>) -> Vec<String> {
    let numbers = (0..NUMBERS).filter(|number| {
        is_let_through(filter, || {
            let (number, none) = (libc::c_long::from(*number), NOTHING);
            if number == libc::SYS_rt_sigreturn {
                return arch::sigreturn();
            }
            // SAFETY: whatever this call is, it is made in a child that ends right behind it, and
            // all it could be given is not there.
            unsafe { libc::syscall(number, none, none, none, none, none, none) };
        })
    });
    let name = |number| match call_name(number) {
        "unknown" => number.to_string(),
        name => name.to_owned(),
    };
    numbers.map(name).collect()
}

/// The ways into the kernel that are open beside the one that filters check.
pub(crate) fn other_entries() -> Vec<&'static str> {
    let entries = arch::OTHER_ENTRIES.iter();
    let open = entries.filter(|(_, enter)| is_let_through(None, *enter));
    open.map(|(name, _)| *name).collect()
}

/// Whether a child behind `filter` survives this, or dies of anything but the filter.
fn is_let_through(filter: Option<Filter>, act: impl FnOnce()) -> bool {
    match fork() {
        -1 => true,
        0 => {
            // The standard library's handler would make calls of its own.
            // SAFETY: the default action runs no code of this process.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            let confined = filter.map(|filter| filter.install(Mode::Kill));
            if !matches!(confined, Some(Err(_))) {
                act();
            }
            // SAFETY: _exit takes no pointers and never returns.
            unsafe { libc::_exit(0) }
        }
        child => !matches!(
            waitid(Id::Pid(Pid::from_raw(child)), WaitPidFlag::WEXITED),
            Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _))
        ),
    }
}

/// A child that is a copy of this process: 0 in the child itself, -1 if there is none. By a call that
/// processes of ours may make, which the C library's is not.
fn fork() -> libc::pid_t {
    // SAFETY: clone_args is plain integers, for which zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    let (args, len) = (&raw mut args, size_of::<libc::clone_args>());
    // SAFETY: args is a clone_args of the size given. Without CLONE_VM the child runs on its own copy
    // of this stack; this process has one thread, so the child may do whatever this one might.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args, len) };
    libc::pid_t::try_from(pid).unwrap_or(-1)
}
