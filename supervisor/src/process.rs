// SPDX-License-Identifier: Apache-2.0
//! A child process with what every child has: a control socket and a health page. The process is
//! signalled, waited for and reaped through its pidfd, never through its process id.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use handover::host_resources::{Binaries, Log};
use host::clock::monotonic_ns;
use host::pidfd;
use ipc::control::{Channel, ControlError};
use ipc::fd;
use ipc::health::{self, Crash, Health, HealthError, HealthPage};
use ipc::log_format::LogFormat;
use ipc::seccomp::Mode;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spec::api::ProcessInfo;

use super::child::{self, Child, ChildSpec, StartError};
use super::death::Death;
use super::jailer_link::{Asked, JailerLink};
use super::jails::Jails;

/// How many messages are read at once before others get their turn.
const MESSAGES_AT_ONCE: usize = 16;

/// What all children of a VM are started from.
#[derive(Debug)]
pub(crate) struct SpawnContext {
    /// The VM's name.
    pub(crate) vm_id: String,
    /// The programs, and /dev/null.
    pub(crate) binaries: Binaries,
    /// The log of all processes of the VM.
    pub(crate) log: Log,
    /// Where children are put.
    pub(crate) jails: Jails,
    /// The jailer, which opens what the supervisor cannot.
    pub(crate) jailer: Rc<JailerLink>,
    /// What the kernel does about a system call outside the filters.
    pub(crate) seccomp: Mode,
    /// How its processes write to the log.
    pub(crate) log_format: LogFormat,
}

/// A child could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// There is no control socket.
    #[error("cannot make a control socket")]
    Control(#[from] ControlError),
    /// There is no health page.
    #[error("cannot make a health page")]
    Health(#[from] HealthError),
    /// Its control socket could not be prepared.
    #[error("cannot prepare a file descriptor")]
    Prepare(#[from] Errno),
    /// There is no process.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// What a child has sent, or that it has hung up.
#[derive(Debug)]
pub(crate) enum Incoming<M> {
    /// A message.
    Message(M),
    /// Something that is not a message.
    Malformed(String),
    /// The child has closed its end.
    HungUp,
}

/// A child that was started and has not been reaped, its control socket and its health page.
#[derive(Debug)]
pub(crate) struct ManagedProcess {
    process: Box<dyn Actor>,
    control: Option<Channel>,
    health: HealthPage,
    spawned_ns: u64,
    /// Its process id is known, or never will be.
    identified: bool,
}

impl ManagedProcess {
    /// Starts a child: with what `spec` says, and what every child gets.
    pub(crate) fn start(context: &SpawnContext, spec: &ChildSpec) -> Result<Self, SpawnError> {
        let (control, its_control) = Channel::pair()?;
        let page = health::create()?;
        let null = context.binaries.null.as_fd();
        let common = [
            (0, null),
            (1, null),
            (2, context.log.writer.as_fd()),
            (fd::CONTROL, its_control.as_fd()),
            (fd::HEALTH, page.as_fd()),
        ];
        let spawned_ns = monotonic_ns();
        let process = Process {
            child: child::start(spec, &common, &context.jails)?,
            user: spec.profile.user,
            host_pid: HostPid::Unknown,
            reaped: false,
        };
        Self::of(Box::new(process), spawned_ns, control, &page)
    }

    /// Takes charge of the process that has the other end of this socket and writes this page.
    pub(crate) fn of(
        process: Box<dyn Actor>,
        spawned_ns: u64,
        control: Channel,
        page: &OwnedFd,
    ) -> Result<Self, SpawnError> {
        fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            process,
            control: Some(control),
            health: HealthPage::map(page)?,
            spawned_ns,
            identified: false,
        })
    }

    /// Asks the jailer for its process id on the host, or looks for the answer; returns whether
    /// that is settled. `say` is called once it is.
    pub(crate) fn identify(&mut self, jailer: &JailerLink, say: impl FnOnce(Pid)) -> bool {
        if !self.identified && self.process.identify(jailer) {
            self.identified = true;
            say(self.process.pid());
        }
        self.identified
    }

    /// Its process id on the host, once that is known.
    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Readable once the process has ended.
    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.process.exit_fd()
    }

    /// Readable when the process has sent something; `None` once it has hung up.
    pub(crate) fn control_fd(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// The messages that have come, in order; not all of them if there are many.
    pub(crate) fn listen<M: DeserializeOwned>(&mut self) -> Vec<Incoming<M>> {
        let mut all = Vec::new();
        while let Some(control) = &self.control
            && all.len() < MESSAGES_AT_ONCE
        {
            let incoming = match control.receive() {
                Ok(Some(message)) => Incoming::Message(message),
                Ok(None) => Incoming::HungUp,
                Err(ControlError::Receive(Errno::EAGAIN)) => break,
                Err(error) => Incoming::Malformed(host::log::chain(&error)),
            };
            if !matches!(incoming, Incoming::Message(_)) {
                self.hang_up();
            }
            all.push(incoming);
        }
        all
    }

    /// Hears no more of it.
    pub(crate) fn hang_up(&mut self) {
        self.control = None;
    }

    /// Sends it a message, with a descriptor if there is one.
    pub(crate) fn tell(
        &self,
        message: &impl Serialize,
        fd: Option<&OwnedFd>,
    ) -> Result<(), ControlError> {
        match (&self.control, fd) {
            (Some(control), Some(fd)) => control.send_with(message, fd.as_fd()),
            (Some(control), None) => control.send(message),
            (None, _) => Err(ControlError::Send(Errno::EPIPE)),
        }
    }

    /// Kills it; it must still be reaped.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// How it ended, if it has; reaps it then.
    pub(crate) fn reap(&mut self) -> Option<Death> {
        self.process.reap()
    }

    /// Its health page: the process's own claims.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// What it recorded about its own death.
    pub(crate) fn crash(&self) -> Crash {
        Crash::from_u32(self.health.crash.load(Ordering::Relaxed))
    }

    /// For `inspect`.
    pub(crate) fn info(&self, role: String, restarts: u32) -> ProcessInfo {
        ProcessInfo {
            role,
            restarts,
            pid: self.pid().as_raw(),
            spawned_ns: self.spawned_ns,
            first_run_ns: 0,
            pio_exits: 0,
            mmio_exits: 0,
        }
    }
}

/// A process, as the supervisor sees it.
pub(crate) trait Actor: fmt::Debug {
    /// Asks the jailer for its process id on the host, or looks for the answer; returns whether
    /// that is settled. Only the user and the control groups need the process id.
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

/// A child that has not been reaped.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Which of the VM's users it runs as.
    user: u8,
    host_pid: HostPid,
    reaped: bool,
}

/// How far the question for its process id has come.
#[derive(Debug)]
enum HostPid {
    Unknown,
    Asked(Asked),
    /// It is known, or 0 because it cannot be.
    Settled(Pid),
}

impl Process {
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

impl Actor for Process {
    fn identify(&mut self, jailer: &JailerLink) -> bool {
        let pid = match &self.host_pid {
            HostPid::Settled(_) => return true,
            HostPid::Unknown => match jailer.ask_host_pid(self.user, self.child.pidfd.as_fd()) {
                Ok(asked) => {
                    self.host_pid = HostPid::Asked(asked);
                    return false;
                }
                Err(error) => Err(error),
            },
            HostPid::Asked(asked) => match asked.host_pid() {
                None => return false,
                Some(pid) => pid,
            },
        };
        self.host_pid = HostPid::Settled(pid.unwrap_or_else(|error| {
            log::warn!("{}", host::log::chain(&error));
            Pid::from_raw(0)
        }));
        true
    }

    fn pid(&self) -> Pid {
        match self.host_pid {
            HostPid::Settled(pid) => pid,
            HostPid::Unknown | HostPid::Asked(_) => Pid::from_raw(0),
        }
    }

    fn exit_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    fn kill(&self) {
        pidfd::kill(self.child.pidfd.as_fd());
    }

    fn reap(&mut self) -> Option<Death> {
        self.wait(WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
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
