// SPDX-License-Identifier: Apache-2.0
//! Every system call number, each in a child of its own, with arguments that no call takes: what the
//! filter stops kills the child with SIGSYS, everything else was let through.

#![allow(unsafe_code)]

use launch::seccomp::{Filter, Mode, call_name};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::gate;

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
                return gate::sigreturn();
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

/// The ways into the kernel beside the one that filters are about that are open.
pub(crate) fn gates() -> Vec<&'static str> {
    let gates = gate::ALL.iter();
    let open = gates.filter(|(_, enter)| is_let_through(None, *enter));
    open.map(|(name, _)| *name).collect()
}

/// Whether a child behind `filter` survives this, or dies of anything but the filter.
fn is_let_through(filter: Option<Filter>, act: impl FnOnce()) -> bool {
    // SAFETY: this process has one thread, so the child may do whatever this one might.
    match unsafe { libc::fork() } {
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
            waitpid(Pid::from_raw(child), None),
            Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _))
        ),
    }
}
