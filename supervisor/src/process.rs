// SPDX-License-Identifier: Apache-2.0
//! A child process: signalled, waited for and reaped through its pidfd, never through its process
//! id.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use host::pidfd;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::child::{self, Child, ChildSpec, StartError};
use super::jailer_link::{Asked, JailerLink};
use super::jails::Jails;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// It exited.
    Exited(i32),
    /// A signal killed it.
    Signalled(Signal),
    /// It was never executed: the step that failed, and why.
    NotExecuted(&'static str, Errno),
    /// It is gone, and the kernel did not tell how it ended.
    Unknown,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(f, "exited with status {status}"),
            Self::Signalled(signal) => write!(f, "was killed by {signal}"),
            Self::NotExecuted(step, errno) => {
                write!(f, "did not start: cannot {step}: {}", errno.desc())
            }
            Self::Unknown => f.write_str("is gone"),
        }
    }
}

/// A backend's process, as a device sees it.
pub(crate) trait Actor: fmt::Debug {
    /// Asks the jailer for its process id on the host, or looks for the answer; returns whether
    /// that is settled.
    fn identify(&mut self, jailer: &JailerLink) -> bool;

    /// Its process id on the host; 0 if that is not known.
    fn pid(&self) -> Pid;

    /// Readable once it has ended.
    fn exit_fd(&self) -> BorrowedFd<'_>;

    /// Kills it; it must still be reaped.
    fn kill(&self);

    /// How it ended, if it has; reaps it then.
    fn reap(&mut self) -> Option<Death>;
}

impl Actor for Process {
    fn identify(&mut self, jailer: &JailerLink) -> bool {
        self.identify(jailer)
    }

    fn pid(&self) -> Pid {
        self.pid()
    }

    fn exit_fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn kill(&self) {
        self.kill();
    }

    fn reap(&mut self) -> Option<Death> {
        self.reap()
    }
}

/// A child that has not been reaped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Which of the VM's users it runs as.
    user: u8,
    host_pid: Pid,
    identity: Identity,
    reaped: bool,
}

/// How far the question for its process id has come.
#[derive(Debug)]
enum Identity {
    Unknown,
    Asked(Asked),
    /// It is known, or cannot be.
    Settled,
}

impl Process {
    /// Starts a child and takes charge of it.
    pub(crate) fn start(spec: &ChildSpec<'_>, jails: &Jails) -> Result<Self, StartError> {
        Ok(Self {
            child: child::start(spec, jails)?,
            user: spec.profile.user,
            host_pid: Pid::from_raw(0),
            identity: Identity::Unknown,
            reaped: false,
        })
    }

    /// Asks the jailer for its process id on the host, or looks for the answer; returns whether
    /// that is settled. Only the user and the control groups need the process id.
    pub(crate) fn identify(&mut self, jailer: &JailerLink) -> bool {
        let pid = match &self.identity {
            Identity::Settled => return true,
            Identity::Unknown => match jailer.ask_host_pid(self.user, self.child.pidfd.as_fd()) {
                Ok(asked) => {
                    self.identity = Identity::Asked(asked);
                    return false;
                }
                Err(error) => Err(error),
            },
            Identity::Asked(asked) => match asked.host_pid() {
                None => return false,
                Some(pid) => pid,
            },
        };
        match pid {
            Ok(pid) => self.host_pid = pid,
            Err(error) => log::warn!("{}", host::log::chain(&error)),
        }
        self.identity = Identity::Settled;
        true
    }

    /// Its process id on the host; 0 if that is not known.
    pub(crate) fn pid(&self) -> Pid {
        self.host_pid
    }

    /// Kills it; it must still be reaped.
    pub(crate) fn kill(&self) {
        pidfd::kill(self.child.pidfd.as_fd());
    }

    /// How it ended, if it has; reaps it then.
    pub(crate) fn reap(&mut self) -> Option<Death> {
        self.wait(WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
    }

    fn wait(&mut self, flags: WaitPidFlag) -> Option<Death> {
        let death = match waitid(Id::PIDFd(self.child.pidfd.as_fd()), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => return None,
            Ok(WaitStatus::Exited(_, status)) => Death::Exited(status),
            Ok(WaitStatus::Signaled(_, signal, _)) => Death::Signalled(signal),
            Ok(_) | Err(_) => Death::Unknown,
        };
        self.reaped = true;
        match child::failure(&self.child.report) {
            Some((step, errno)) => Some(Death::NotExecuted(step, errno)),
            None => Some(death),
        }
    }
}

impl AsFd for Process {
    /// Readable once the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.wait(WaitPidFlag::WEXITED);
        }
    }
}
