// SPDX-License-Identifier: Apache-2.0
//! One generation of a device's backend: a process, its control socket, its health page.

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use host::clock::monotonic_ns;
use ipc::control::{Channel, ControlError, FromBackend, ToBackend};
use ipc::fd;
use ipc::health::{self, Crash, Health, HealthPage};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use spec::api::ProcessInfo;

use super::kind::{BackendError, SpawnContext};
use crate::JailerLink;
use crate::child::ChildSpec;
use crate::process::{Actor, Death, Process};
use crate::profile::Profile;

/// How many messages are read at once before others get their turn.
const MESSAGES_AT_ONCE: usize = 16;

/// Many times more messages than a backend sends in its life. A backend that sends more must be
/// compromised: it costs the supervisor time on purpose.
const MESSAGES_MAX: usize = 64;

/// What a backend has sent.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A message.
    Message(FromBackend),
    /// Something that is not a message.
    Malformed(String),
}

/// What a backend of one kind is started with, beside what every backend gets.
#[derive(Debug)]
pub(crate) struct ChildResources {
    /// Its argv\[0\].
    pub(crate) name: &'static CStr,
    /// Its program.
    pub(crate) program: OwnedFd,
    /// Its launch record.
    pub(crate) record: OwnedFd,
    /// Its own descriptors, and their numbers.
    pub(crate) fds: Vec<(RawFd, OwnedFd)>,
    /// The part of its jail that depends on its kind.
    pub(crate) profile: Profile,
}

/// A backend that was started and has not been reaped.
#[derive(Debug)]
pub(crate) struct Backend {
    process: Box<dyn Actor>,
    control: Option<Channel>,
    /// How many messages have been read.
    heard: usize,
    health: HealthPage,
    spawned_ns: u64,
    /// Its process id is known, or never will be.
    identified: bool,
    /// The supervisor has killed it by [`Self::kill`].
    killed_by_us: Cell<bool>,
}

impl Backend {
    /// Starts a backend.
    pub(crate) fn start(
        context: &SpawnContext<'_>,
        resources: &ChildResources,
    ) -> Result<Self, BackendError> {
        let (control, its_control) = Channel::pair()?;
        let page = health::create()?;
        let mut fds = vec![
            (0, context.null),
            (1, context.null),
            (2, context.log.writer.as_fd()),
            (fd::RECORD, resources.record.as_fd()),
            (fd::CONTROL, its_control.as_fd()),
            (fd::HEALTH, page.as_fd()),
        ];
        fds.extend(
            resources
                .fds
                .iter()
                .map(|(number, fd)| (*number, fd.as_fd())),
        );
        let spawned_ns = monotonic_ns();
        let spec = ChildSpec {
            name: resources.name,
            // The same program also runs standalone, and expects these descriptors only with this
            // argument.
            arg: Some(c"--launched"),
            program: resources.program.as_fd(),
            fds,
            profile: resources.profile,
        };
        let process = Process::start(&spec, context.jails)?;
        Self::of(Box::new(process), spawned_ns, control, &page)
    }

    /// Takes charge of the process that has the other end of this socket and writes this page.
    pub(crate) fn of(
        process: Box<dyn Actor>,
        spawned_ns: u64,
        control: Channel,
        page: &OwnedFd,
    ) -> Result<Self, BackendError> {
        fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            process,
            control: Some(control),
            heard: 0,
            health: HealthPage::map(page)?,
            spawned_ns,
            identified: false,
            killed_by_us: Cell::new(false),
        })
    }

    /// Asks the jailer for its process id, or looks for the answer; returns whether that is
    /// settled. `id` is its device's name, for the log.
    pub(crate) fn identify(&mut self, id: &str, jailer: &JailerLink) -> bool {
        if !self.identified && self.process.identify(jailer) {
            self.identified = true;
            log::info!(device_id = id; "started a backend, pid {}", self.pid());
        }
        self.identified
    }

    /// Its process id, once it is known.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// Readable once the process has ended.
    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.process.exit_fd()
    }

    /// Readable when the backend has sent something; `None` once it has hung up.
    pub(crate) fn control_fd(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// The messages that have come, in order; not all of them if there are many.
    pub(crate) fn listen(&mut self) -> Vec<Incoming> {
        let mut all = Vec::new();
        while let Some(control) = &self.control
            && all.len() < MESSAGES_AT_ONCE
        {
            match control.receive() {
                Ok(Some(_)) if self.heard == MESSAGES_MAX => {
                    self.control = None;
                    let what = format!("it has said more than {MESSAGES_MAX} things");
                    all.push(Incoming::Malformed(what));
                }
                Ok(Some(message)) => {
                    self.heard += 1;
                    all.push(Incoming::Message(message));
                }
                Ok(None) => self.control = None,
                Err(ControlError::Receive(nix::Error::EAGAIN)) => break,
                Err(error) => {
                    self.control = None;
                    all.push(Incoming::Malformed(host::log::chain(&error)));
                }
            }
        }
        all
    }

    /// Kills it; it must still be reaped.
    pub(crate) fn kill(&self) {
        self.killed_by_us.set(true);
        self.process.kill();
    }

    /// Kills it, if it has not ended already, because the vmm does not use it any more. Its
    /// requests are not to blame.
    pub(crate) fn terminate(&self) {
        self.process.kill();
    }

    /// Whether no request can have caused this death: another process killed the backend, or the
    /// kernel refused its io_uring.
    pub(crate) fn was_killed_externally(&self, death: Death) -> bool {
        let killed = death == Death::Signalled(Signal::SIGKILL) && !self.killed_by_us.get();
        killed || matches!(self.crash(), Crash::Engine(_))
    }

    /// How it ended, if it has.
    pub(crate) fn reap(&mut self) -> Option<Death> {
        self.process.reap()
    }

    /// What it recorded about its own death.
    pub(crate) fn crash(&self) -> Crash {
        Crash::from_u32(self.health.crash.load(Ordering::Relaxed))
    }

    /// Its health page: the backend's own claims.
    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// Whether it claims to have completed a request.
    pub(crate) fn has_completed(&self) -> bool {
        let mut queues = self.health.queues.iter();
        queues.any(|queue| queue.requests.load(Ordering::Relaxed) != 0)
    }

    /// Asks its workers for a sign of life.
    pub(crate) fn ping(&self, number: u32) {
        if let Some(control) = &self.control {
            // If the backend does not read, it will not answer, and the watchdog notices that.
            let _ = control.send(&ToBackend::Ping(number));
        }
    }

    /// Tells a NIC's backend whether the link is up.
    pub(crate) fn tell_link(&self, up: bool) {
        if let Some(control) = &self.control {
            // If the backend does not read, it does not answer pings either; its successor gets the
            // new state.
            let _ = control.send(&ToBackend::Link(up));
        }
    }

    /// Tells a disk's backend whether writes were lost, if its version knows the message. False if
    /// its version is not known yet.
    pub(crate) fn tell_synced(&self, lost: bool) -> bool {
        let version = self.health.version.load(Ordering::Relaxed);
        if let (health::KNOWS_SYNCED.., Some(control)) = (version, &self.control) {
            // If the backend does not read, it does not answer pings either; its successor is told.
            let _ = control.send(&ToBackend::Synced { lost });
        }
        version != 0
    }

    /// For `inspect`.
    pub(crate) fn info(&self, role: String, restarts: u32) -> ProcessInfo {
        ProcessInfo {
            role,
            restarts,
            pid: self.process.pid().as_raw(),
            spawned_ns: self.spawned_ns,
            first_run_ns: 0,
            pio_exits: 0,
            mmio_exits: 0,
        }
    }
}
