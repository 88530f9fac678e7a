// SPDX-License-Identifier: Apache-2.0
//! One generation of the vmm: a process, its control socket, its health page.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use handover::host_resources::{Binaries, Guest, Log};
use host::clock::monotonic_ns;
use ipc::control::{Channel, ControlError, FromVmm, ToVmm};
use ipc::fd;
use ipc::health::{self, Crash, HealthError, HealthPage};
use ipc::slot::DeviceSlot;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Whence, lseek};
use spec::api::ProcessInfo;

use super::child::{ChildSpec, StartError};
use super::devices::Link;
use super::jailer_link::JailerLink;
use super::jails::Jails;
use super::process::{Death, Process};
use crate::profile::Profile;

/// How many messages are read at once before others get their turn.
const MESSAGES_AT_ONCE: usize = 16;
/// How much of the log is examined when a vmm died.
const TAIL_BYTES: usize = 4096;

/// A vmm could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// There is no control socket.
    #[error("cannot make a control socket")]
    Control(#[from] ControlError),
    /// There is no health page.
    #[error("cannot make a health page")]
    Health(#[from] HealthError),
    /// A descriptor could not be prepared.
    #[error("cannot prepare a file descriptor")]
    Prepare(#[from] nix::Error),
    /// There is no process.
    #[error("cannot start the vmm")]
    Start(#[from] StartError),
}

/// What the vmm has sent, or that it has hung up.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A message.
    Message(FromVmm),
    /// Something that is not a message.
    Malformed(String),
    /// The vmm has closed its end.
    HungUp,
}

/// A vmm that was started and has not been reaped.
#[derive(Debug)]
pub(crate) struct Vmm {
    process: Process,
    control: Option<Channel>,
    health: HealthPage,
    spawned_ns: u64,
    log_start: u64,
    /// Its process id is known, or never will be.
    registered: bool,
}

/// What every vmm gets, and this one's end of the console.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) binaries: &'a Binaries,
    pub(crate) guest: &'a Guest,
    pub(crate) ram: BorrowedFd<'a>,
    pub(crate) record: &'a OwnedFd,
    pub(crate) log: &'a Log,
    pub(crate) console: BorrowedFd<'a>,
    pub(crate) links: &'a [Link],
    pub(crate) jails: &'a Jails,
    pub(crate) profile: Profile,
}

impl Vmm {
    /// Starts a vmm with new RAM.
    pub(crate) fn spawn(parts: &Parts<'_>) -> Result<Self, SpawnError> {
        // The vmm before has read them, and shares the file offset.
        let initrd = parts.guest.initrd.as_ref();
        for file in [Some(&parts.guest.kernel), initrd].into_iter().flatten() {
            lseek(file, 0, Whence::SeekSet)?;
        }
        let (control, its_control) = Channel::pair()?;
        fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let page = health::create()?;
        let health = HealthPage::map(&page)?;
        let null = parts.binaries.null.as_fd();
        let mut fds = vec![
            (0, null),
            (1, null),
            (2, parts.log.writer.as_fd()),
            (fd::RECORD, parts.record.as_fd()),
            (fd::CONTROL, its_control.as_fd()),
            (fd::HEALTH, page.as_fd()),
            (fd::vmm::KVM, parts.guest.kvm.as_fd()),
            (fd::vmm::GUEST_RAM, parts.ram),
            (fd::vmm::KERNEL, parts.guest.kernel.as_fd()),
            (fd::vmm::CONSOLE, parts.console),
        ];
        fds.extend(initrd.map(|file| (fd::vmm::INITRD, file.as_fd())));
        for (slot, link) in DeviceSlot::all().zip(parts.links) {
            let (stream, inflight) = fd::vmm::device(slot);
            fds.push((stream, link.stream.as_fd()));
            fds.extend(
                link.inflight
                    .iter()
                    .map(|region| (inflight, region.as_fd())),
            );
        }
        let log_start = parts.log.reader.metadata().map_or(0, |m| m.len());
        let spec = ChildSpec {
            name: c"vmm",
            arg: None,
            program: parts.binaries.vmm.as_fd(),
            fds,
            profile: parts.profile,
        };
        let spawned_ns = monotonic_ns();
        Ok(Self {
            process: Process::start(&spec, parts.jails)?,
            control: Some(control),
            health,
            spawned_ns,
            log_start,
            registered: false,
        })
    }

    /// Asks the jailer for its process id on the host, or looks for the answer.
    pub(crate) fn identify(&mut self, jailer: &JailerLink) {
        if !self.registered && self.process.identify(jailer) {
            self.registered = true;
            log::info!("started a vmm, pid {}", self.process.pid());
        }
    }

    /// Readable once the process has ended.
    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Readable when the vmm has sent something; `None` once it has hung up.
    pub(crate) fn control_fd(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// The messages that have come, in order; not all of them if there are many.
    pub(crate) fn listen(&mut self) -> Vec<Incoming> {
        let mut all = Vec::new();
        while let Some(control) = &self.control
            && all.len() < MESSAGES_AT_ONCE
        {
            let heard = match control.receive() {
                Ok(Some(message)) => Incoming::Message(message),
                Ok(None) => Incoming::HungUp,
                Err(ControlError::Receive(nix::Error::EAGAIN)) => break,
                Err(error) => Incoming::Malformed(host::log::chain(&error)),
            };
            if !matches!(heard, Incoming::Message(_)) {
                self.control = None;
            }
            all.push(heard);
        }
        all
    }

    /// Sends the vmm a message.
    pub(crate) fn tell(&self, message: ToVmm) -> Result<(), ControlError> {
        match &self.control {
            Some(control) => control.send(&message),
            None => Err(ControlError::Send(nix::Error::EPIPE)),
        }
    }

    /// Sends the vmm a message with a descriptor.
    pub(crate) fn tell_with(
        &self,
        message: &ToVmm,
        fd: BorrowedFd<'_>,
    ) -> Result<(), ControlError> {
        match &self.control {
            Some(control) => control.send_with(message, fd),
            None => Err(ControlError::Send(nix::Error::EPIPE)),
        }
    }

    /// Kills it; it must still be reaped.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// How it ended, if it has.
    pub(crate) fn reap(&mut self) -> Option<Death> {
        self.process.reap()
    }

    /// What it recorded about its own death.
    pub(crate) fn crash(&self) -> Crash {
        Crash::from_u32(self.health.crash.load(Ordering::Relaxed))
    }

    /// The last lines of what was logged since it was started.
    pub(crate) fn log_tail(&self, log: &File) -> String {
        let end = log.metadata().map_or(0, |m| m.len());
        let start = end.saturating_sub(TAIL_BYTES as u64).max(self.log_start);
        let mut tail = vec![0; TAIL_BYTES];
        let len = log.read_at(&mut tail, start).unwrap_or(0);
        String::from_utf8_lossy(&tail[..len]).into_owned()
    }

    /// For `inspect`.
    pub(crate) fn info(&self) -> ProcessInfo {
        let health = &self.health;
        ProcessInfo {
            role: "vmm".into(),
            restarts: 0,
            pid: self.process.pid().as_raw(),
            spawned_ns: self.spawned_ns,
            first_run_ns: health.first_run_ns.load(Ordering::Relaxed),
            pio_exits: health.pio_exits.load(Ordering::Relaxed),
            mmio_exits: health.mmio_exits.load(Ordering::Relaxed),
        }
    }
}
