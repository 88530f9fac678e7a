// SPDX-License-Identifier: Apache-2.0
//! The jailer as a child process of the program that starts a VM.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getpid, getppid, setsid};

use crate::signals::reset;

/// Gives the child a session of its own, so that Ctrl-C reaches it only through us; if bound,
/// SIGHUP when the thread that starts it ends for any reason. Resets the signals that we pass on,
/// because we may have inherited some of them ignored.
pub fn set_apart(command: &mut Command, bound: bool) {
    let parent = getpid();
    let prepare = move || {
        setsid()?;
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            reset(signal)?;
        }
        if bound {
            set_pdeathsig(Signal::SIGHUP)?;
            if getppid() != parent {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec `prepare` only makes system calls, and none of them allocates:
    // io::Error holds an errno or a kind in place.
    unsafe { command.pre_exec(prepare) };
}
