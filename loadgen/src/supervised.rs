// SPDX-License-Identifier: Apache-2.0
//! Our disk backend started as the supervisor starts it, without the jail around it: born with its
//! descriptors and its record, replaced by another generation after a death.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use launch::control::{Channel, ControlError};
use launch::disk::{Access, DiskError, Geometry};
use launch::fd::{self, blk};
use launch::health::{HealthError, HealthPage};
use launch::memfd::MemfdError;
use launch::record::{BlkEngine, BlkRecord, RecordError, VERSION};
use launch::ring::{RingError, RingWatch};
use launch::seccomp::Mode;
use nix::fcntl::{FcntlArg, fcntl};

/// A backend cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SupervisedError {
    /// Its image.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Its in-flight region.
    #[error(transparent)]
    Memfd(#[from] MemfdError),
    /// Its rings.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Its record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its health page.
    #[error(transparent)]
    Health(#[from] HealthError),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Its socket or its process.
    #[error("cannot start the backend")]
    Start(#[from] io::Error),
}

/// A disk whose backends come and go.
#[derive(Debug)]
pub struct DiskSlot {
    /// The program.
    pub binary: PathBuf,
    /// Whether it does its I/O with threads instead of rings.
    pub threads: bool,
    /// The number of queues.
    pub queues: u16,
    /// The most entries of a queue.
    pub queue_size: u16,
    image: File,
    geometry: Geometry,
    access: Access,
    listener: UnixListener,
    inflight: OwnedFd,
}

impl DiskSlot {
    /// A disk on an image, served at a socket.
    pub fn new(
        binary: &Path,
        image: &Path,
        access: Access,
        socket: &Path,
        (queues, queue_size): (u16, u16),
    ) -> Result<Self, SupervisedError> {
        let (image, geometry) = launch::disk::open(image, access)?;
        Ok(Self {
            binary: binary.into(),
            threads: false,
            queues,
            queue_size,
            image,
            geometry,
            access,
            listener: UnixListener::bind(socket)?,
            inflight: launch::inflight::create(queues, queue_size)?,
        })
    }

    /// The in-flight region.
    pub fn inflight(&self) -> &OwnedFd {
        &self.inflight
    }

    /// Starts a generation of the backend.
    pub fn start(&self, after_crash: bool) -> Result<Generation, SupervisedError> {
        let mut fds = Vec::new();
        let (mut rings, mut params) = (Vec::new(), Vec::new());
        if self.threads {
            fds.push((blk::DISK, self.image.as_fd().try_clone_to_owned()?));
        } else {
            for number in (blk::RING..).take(usize::from(self.queues)) {
                let (ring, param) = launch::ring::create(self.queue_size, self.image.as_fd())?;
                rings.push(RingWatch::new(&ring, &param)?);
                params.push(param);
                fds.push((number, ring));
            }
        }
        let engine = if self.threads {
            BlkEngine::Threads
        } else {
            BlkEngine::Uring(params)
        };
        let record = self.record(engine, after_crash);
        let (control, theirs) = Channel::pair()?;
        let health = launch::health::create()?;
        let page = HealthPage::map(&health)?;
        fds.push((fd::RECORD, record.write()?));
        fds.push((fd::CONTROL, theirs.into()));
        fds.push((fd::HEALTH, health));
        fds.push((blk::LISTENER, self.listener.as_fd().try_clone_to_owned()?));
        fds.push((blk::INFLIGHT, self.inflight.as_fd().try_clone_to_owned()?));
        let child = spawn(&self.binary, &fds)?;
        Ok(Generation {
            child,
            control,
            health: page,
            rings,
        })
    }

    fn record(&self, engine: BlkEngine, after_crash: bool) -> BlkRecord {
        BlkRecord {
            version: VERSION,
            vm_id: "loadgen".into(),
            device_id: "disk0".into(),
            queues: self.queues,
            queue_size: self.queue_size,
            serial: "supervised".into(),
            readonly: self.access.readonly,
            geometry: self.geometry,
            engine,
            poll_us: 50,
            after_crash,
            seccomp: Mode::Kill,
        }
    }
}

/// A backend process.
#[derive(Debug)]
pub struct Generation {
    child: Child,
    /// The supervisor's end of its control socket.
    pub control: Channel,
    /// Its health page.
    pub health: HealthPage,
    rings: Vec<RingWatch>,
}

impl Generation {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, and waits until nothing it has submitted can happen any more. Returns how long
    /// that took after its end; `None` if it is not over within 30 s.
    pub fn kill(mut self) -> io::Result<Option<Duration>> {
        self.child.kill()?;
        self.child.wait()?;
        let ended = Instant::now();
        while self.rings.iter().any(|ring| ring.unfinished() != 0) {
            if ended.elapsed() > Duration::from_secs(30) {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(Some(ended.elapsed()))
    }

    /// Waits for it to end of itself.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// Starts a process with these descriptors, at these numbers, and no others above the third.
#[allow(unsafe_code)]
fn spawn(binary: &Path, fds: &[(RawFd, OwnedFd)]) -> io::Result<Child> {
    // First out of the way of each other's numbers.
    let moved: io::Result<Vec<(RawFd, RawFd)>> = fds
        .iter()
        .map(|(number, fd)| Ok((*number, fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(100))?)))
        .collect();
    let moved = moved?;
    let numbers = moved.clone();
    let mut command = Command::new(binary);
    command
        .arg("--launched")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let place = move || {
        for (number, fd) in &numbers {
            // SAFETY: no pointers; in the child, whose numbers below 100 are the table's.
            nix::errno::Errno::result(unsafe { libc::dup2(*fd, *number) })?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only, on numbers it owns.
    unsafe { command.pre_exec(place) };
    let child = command.spawn();
    for (_, fd) in moved {
        // SAFETY: made above, used by the child only.
        unsafe { libc::close(fd.as_raw_fd()) };
    }
    child
}
