// SPDX-License-Identifier: Apache-2.0
//! One generation of a disk's backend: a process, its rings or its opening of the image, its
//! control socket, its health page.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::Ordering;

use launch::clock::monotonic_ns;
use launch::control::{Channel, ControlError, FromBackend};
use launch::disk::{self, DiskError, Geometry};
use launch::fd;
use launch::health::{self, Crash, HealthError, HealthPage};
use launch::record::{BlkEngine, BlkRecord, RecordError, VERSION};
use launch::ring::{self, RingError, RingWatch};
use launch::seccomp::Mode;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use spec::api::ProcessInfo;
use spec::{Disk, DiskEngine};

use super::fence::{Fence, Ring, fresh_mark};
use super::rendezvous::{Meeting, Rendezvous};
use crate::supervisor::child::{self, Plan, StartError};
use crate::supervisor::endowment::Log;
use crate::supervisor::process::{Death, Process};

/// How many messages are read at once before others get their turn.
const MESSAGES_AT_ONCE: usize = 16;

/// A backend could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// The image could not be opened once more.
    #[error("cannot open the image again")]
    Reopen(#[source] io::Error),
    /// The opening could not be marked.
    #[error(transparent)]
    Mark(#[from] DiskError),
    /// There is no ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// There is no launch record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// There is no control socket.
    #[error("cannot make a control socket")]
    Control(#[from] ControlError),
    /// There is no health page.
    #[error("cannot make a health page")]
    Health(#[from] HealthError),
    /// It could not be connected to the vmm, or its descriptors not prepared.
    #[error("cannot connect it to the vmm")]
    Connect(#[from] nix::Error),
    /// There is no process.
    #[error("cannot start it")]
    Start(#[from] StartError),
}

/// What the backends of all disks are started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) vm_id: &'a str,
    pub(crate) program: BorrowedFd<'a>,
    pub(crate) null: BorrowedFd<'a>,
    pub(crate) log: &'a Log,
    pub(crate) rendezvous: &'a Rendezvous,
    pub(crate) seccomp: Mode,
}

/// What the backend of one disk is started from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matter<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) image: &'a File,
    pub(crate) geometry: Geometry,
    pub(crate) inflight: BorrowedFd<'a>,
    /// Whether the one before died of itself.
    pub(crate) after_crash: bool,
}

/// What a backend said.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A message.
    Message(FromBackend),
    /// Something that is no message.
    Rubbish(String),
}

/// A backend that was started and has not been reaped.
#[derive(Debug)]
pub(crate) struct Generation {
    process: Process,
    control: Option<Channel>,
    health: HealthPage,
    spawned_ns: u64,
    fence: Fence,
}

impl Generation {
    /// Starts a backend; the stream is for the vmm.
    pub(crate) fn spawn(
        means: &Means<'_>,
        matter: &Matter<'_>,
    ) -> Result<(Self, OwnedFd), BackendError> {
        let disk = matter.disk;
        let mark = fresh_mark();
        let opening = reopen(matter.image, disk)?;
        disk::mark(&opening, disk.readonly)?;
        disk::mark_byte(&opening, mark)?;
        let (engine, rings) = engine(disk, &opening)?;
        let record = record(means, matter, engine).write()?;
        let Meeting { listener, stream } = means.rendezvous.arrange()?;
        let (control, its_control) = Channel::pair()?;
        fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let page = health::create()?;
        let health = HealthPage::map(&page)?;
        let mut fds = vec![
            (0, means.null),
            (1, means.null),
            (2, means.log.writer.as_fd()),
            (fd::RECORD, record.as_fd()),
            (fd::CONTROL, its_control.as_fd()),
            (fd::HEALTH, page.as_fd()),
            (fd::blk::LISTENER, listener.as_fd()),
            (fd::blk::INFLIGHT, matter.inflight),
        ];
        if disk.engine == DiskEngine::Threads {
            fds.push((fd::blk::DISK, opening.as_fd()));
        }
        fds.extend((fd::blk::RING..).zip(rings.iter().map(|ring| ring.fd.as_fd())));
        let spawned_ns = monotonic_ns();
        let process = Process::new(child::start(&Plan {
            name: c"blk-backend",
            // The same program runs alone, too, and takes its descriptors for granted only so.
            arg: Some(c"--launched"),
            program: means.program,
            fds,
        })?);
        log::info!(device_id = disk.id.as_str(); "started a backend, pid {}", process.pid());
        let generation = Self {
            process,
            control: Some(control),
            health,
            spawned_ns,
            fence: Fence::new(rings, disk.queue_size, mark),
        };
        Ok((generation, stream))
    }

    /// Readable once the process has ended.
    pub(crate) fn exit_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    /// Readable when it says something; `None` once it has hung up.
    pub(crate) fn control_fd(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// What it has said, in order; not all of it, if it says a lot.
    pub(crate) fn listen(&mut self) -> Vec<Heard> {
        let mut all = Vec::new();
        while let Some(control) = &self.control
            && all.len() < MESSAGES_AT_ONCE
        {
            match control.receive() {
                Ok(Some(message)) => all.push(Heard::Message(message)),
                Ok(None) => self.control = None,
                Err(ControlError::Receive(nix::Error::EAGAIN)) => break,
                Err(error) => {
                    self.control = None;
                    all.push(Heard::Rubbish(launch::log::chain(&error)));
                }
            }
        }
        all
    }

    /// Ends it; it is still to be reaped.
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

    /// It is dead and reaped: what tells when its I/O has ended, too.
    pub(crate) fn into_fence(self, now_ns: u64) -> Fence {
        let mut fence = self.fence;
        fence.begin(now_ns);
        fence
    }

    /// For `inspect`.
    pub(crate) fn info(&self, disk: &Disk, restarts: u32) -> ProcessInfo {
        ProcessInfo {
            role: format!("blk {}", disk.id),
            restarts,
            pid: self.process.pid().as_raw(),
            spawned_ns: self.spawned_ns,
            first_run_ns: 0,
            pio_exits: 0,
            mmio_exits: 0,
        }
    }
}

/// Opens the image for one generation, which will be its last user.
fn reopen(image: &File, disk: &Disk) -> Result<File, BackendError> {
    let mut flags = libc::O_NONBLOCK;
    if disk.direct {
        flags |= libc::O_DIRECT;
    }
    OpenOptions::new()
        .read(true)
        .write(!disk.readonly)
        .custom_flags(flags)
        .open(format!("/proc/self/fd/{}", image.as_raw_fd()))
        .map_err(BackendError::Reopen)
}

fn engine(disk: &Disk, opening: &File) -> Result<(BlkEngine, Vec<Ring>), BackendError> {
    if disk.engine == DiskEngine::Threads {
        return Ok((BlkEngine::Threads, Vec::new()));
    }
    let (mut all_params, mut rings) = (Vec::new(), Vec::new());
    for _ in 0..disk.queues {
        let (fd, params) = ring::create(disk.queue_size, opening.as_fd())?;
        let watch = RingWatch::new(&fd, &params)?;
        rings.push(Ring { watch, fd });
        all_params.push(params);
    }
    Ok((BlkEngine::Uring(all_params), rings))
}

fn record(means: &Means<'_>, matter: &Matter<'_>, engine: BlkEngine) -> BlkRecord {
    let disk = matter.disk;
    BlkRecord {
        version: VERSION,
        vm_id: means.vm_id.into(),
        device_id: disk.id.to_string(),
        queues: disk.queues,
        queue_size: disk.queue_size,
        serial: disk.serial.clone(),
        readonly: disk.readonly,
        geometry: matter.geometry,
        engine,
        poll_us: disk.poll_us,
        after_crash: matter.after_crash,
        seccomp: means.seccomp,
    }
}
