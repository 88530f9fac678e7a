// SPDX-License-Identifier: Apache-2.0
//! Starting a VM detached: returns once its guest has started.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::Duration;

use host::output::Output;
use host::readiness::Ear;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::unistd::{pipe2, read};
use spec::VmSpec;

use super::child::{self, Start};
use super::{Host, RunError};
use crate::console::wait;
use crate::error::Error;
use crate::output;
use crate::signals::{self, Signals};

/// How long to wait for the user to read the jailer's output.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts a VM; returns when its guest has started, or the jailer has failed.
pub(super) fn run(spec: &VmSpec, host: Host<'_>, json: bool) -> Result<u8, Error> {
    let signals = signals::take_over(&[])?;
    let ear = Ear::new().map_err(RunError::Socket)?;
    let flags = OFlag::O_CLOEXEC;
    let (stderr, its_stderr) = pipe2(flags).map_err(RunError::Socket)?;
    let mut child = child::start(
        spec,
        Start {
            state_dir: host.state_dir,
            api_gid: host.api_gid,
            notify: Some(ear.address().clone()),
            stderr: Some(Stdio::from(its_stderr)),
            ..Start::default()
        },
    )?;
    match follow(&mut child, &signals, &ear, &stderr)? {
        None => {
            let name = spec.name.as_deref().unwrap_or_default();
            match json {
                true => output::print_json(&serde_json::json!({ "vm": name, "verb": "run" }))?,
                false => output::print(&format!("{name}\n"))?,
            }
            Ok(0)
        }
        Some(status) => Ok(status),
    }
}

/// Waits until the guest has started (`None`) or the jailer has exited (its status). Meanwhile
/// passes the jailer's output on to the user.
fn follow(
    child: &mut Child,
    signals: &Signals,
    ear: &Ear,
    stderr: &OwnedFd,
) -> Result<Option<u8>, Error> {
    let mut speaks = true;
    let mut interrupted = None;
    loop {
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(ear.as_fd(), PollFlags::POLLIN),
        ];
        if speaks {
            fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
        }
        wait(&mut fds)?;
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| fd.any().unwrap_or(false));
        let (said, told) = (is_ready(2), is_ready(1));
        if said {
            speaks = pass_on_words(stderr);
            continue;
        }
        if told && ear.hears_ready(child.id()) {
            return Ok(None);
        }
        for signal in signals::received(signals) {
            match signal {
                Signal::SIGCHLD => {
                    if let Some(status) = child.try_wait().map_err(RunError::Wait)? {
                        while pass_on_words(stderr) {}
                        let status = child::status(status)?;
                        return Ok(Some(interrupted.unwrap_or(status)));
                    }
                }
                // A user who interrupts us does not want the VM.
                signal => {
                    interrupted = u8::try_from(128 + signal as i32).ok();
                    child::pass_on(child, Signal::SIGHUP);
                }
            }
        }
    }
}

/// Passes on the jailer's output; false at its end.
fn pass_on_words(stderr: &OwnedFd) -> bool {
    let mut chunk = [0; 4096];
    match read(stderr, &mut chunk) {
        Ok(len @ 1..) => {
            let _ = Output::of(io::stderr().as_fd()).write_within(&chunk[..len], PATIENCE);
            true
        }
        Err(Errno::EINTR) => true,
        Ok(_) | Err(_) => false,
    }
}
