// SPDX-License-Identifier: Apache-2.0
//! A short-lived copy of the jailer that does one thing which may block on storage: open(2),
//! fstat(2), locks, fdatasync(2), a path that leads through a file system that hangs.
//!
//! It is a process and not a thread: a thread in uninterruptible sleep cannot be killed, and would
//! keep the jailer from ending, with every descriptor that the jailer has. A helper closes
//! everything except what it needs, so one that is left behind keeps nothing of the VM but the
//! image that it waits for.

#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use host::descriptors::keep_only;
use host::pidfd;
use ipc::control::{Channel, ControlError};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{ForkResult, Pid, fork, getppid};

/// A helper could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelperError {
    /// There is no control socket for its answer.
    #[error("cannot make a control socket")]
    Channel(#[from] ControlError),
    /// There is no process.
    #[error("cannot make a process")]
    Fork(#[from] Errno),
}

/// A helper that was started.
#[derive(Debug)]
pub(crate) struct Helper {
    channel: Channel,
    pidfd: OwnedFd,
    reaped: bool,
}

impl Helper {
    /// Forks a helper that runs `act` with its end of a socket. It keeps these descriptors and
    /// closes all others.
    pub(crate) fn start(
        kept: &[BorrowedFd<'_>],
        act: impl FnOnce(&Channel),
    ) -> Result<Self, HelperError> {
        let (ours, its) = Channel::pair()?;
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let jailer = Pid::this();
        // SAFETY: the jailer is single-threaded, so that no lock is held by another thread. (Tests
        // are not: the C library's fork sees to its own locks.)
        match unsafe { fork() }? {
            ForkResult::Child => {
                let kept = kept.iter().map(AsRawFd::as_raw_fd).collect();
                let lived = catch_unwind(AssertUnwindSafe(|| main(kept, &its, jailer, act)));
                drop(lived);
                // SAFETY: _exit takes no pointers, runs nothing and never returns: everything that
                // would be cleaned up at an exit is the jailer's.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                let pidfd = pidfd::open(child).inspect_err(|_| {
                    let _ = kill(child, Signal::SIGKILL);
                })?;
                Ok(Self {
                    channel: ours,
                    pidfd,
                    reaped: false,
                })
            }
        }
    }

    /// The jailer's end of the socket: readable when the helper has answered or ended.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Readable when the helper has ended.
    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills the helper; it ends as soon as its storage lets it.
    pub(crate) fn kill(&self) {
        if !self.reaped {
            pidfd::kill(self.pidfd.as_fd());
        }
    }

    /// Whether the helper has ended; reaps it then.
    pub(crate) fn has_ended(&mut self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        self.reaped |= !matches!(
            waitid(Id::PIDFd(self.pidfd.as_fd()), flags),
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
        );
        self.reaped
    }
}

impl Drop for Helper {
    /// Kills the helper and does not wait: it may be in uninterruptible sleep.
    fn drop(&mut self) {
        if !self.has_ended() {
            self.kill();
        }
    }
}

/// What a helper does.
fn main(mut kept: Vec<RawFd>, channel: &Channel, jailer: Pid, act: impl FnOnce(&Channel)) {
    host::process::take_name(c"storage-helper");
    let bound = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    if bound.is_err() || getppid() != jailer {
        return;
    }
    // The standard descriptors lead to /dev/null: a file that is opened later must not become one.
    let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") else {
        return;
    };
    kept.push(channel.as_fd().as_raw_fd());
    kept.sort_unstable();
    let null = null.as_raw_fd();
    if keep_only(&kept, null, null).is_ok() {
        act(channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipc::broker::{Answer, ToSupervisor};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn wait_for(fd: BorrowedFd<'_>) {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
    }

    #[test]
    fn helper_has_what_it_was_given_and_nothing_else_and_answers() {
        let (kept, closed) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let closed = closed.as_raw_fd();
        let mut helper = Helper::start(&[kept.as_fd()], |channel| {
            let is_open = |fd| nix::sys::stat::fstat(fd).is_ok();
            // SAFETY: borrowed for one call that finds out whether it is open.
            let closed = unsafe { BorrowedFd::borrow_raw(closed) };
            if is_open(kept.as_fd()) && !is_open(closed) {
                let _ = channel.send(&ToSupervisor::Answer(7, Answer::Opened));
            }
        })
        .unwrap();
        wait_for(helper.channel().as_fd());
        let answer = helper.channel().receive().unwrap();
        assert_eq!(answer, Some(ToSupervisor::Answer(7, Answer::Opened)));
        wait_for(helper.exit_fd());
        assert!(helper.has_ended());
    }

    #[test]
    fn helper_that_blocks_is_ended_when_it_is_dropped() {
        let helper = Helper::start(&[], |_| {
            loop {
                std::thread::park();
            }
        });
        let mut helper = helper.unwrap();
        assert!(!helper.has_ended());
        let pidfd = helper.exit_fd().try_clone_to_owned().unwrap();
        drop(helper);
        wait_for(pidfd.as_fd());
    }
}
