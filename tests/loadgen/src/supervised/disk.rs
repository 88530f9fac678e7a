// SPDX-License-Identifier: Apache-2.0
//! Our disk backend: with its rings and its in-flight region, and the fence behind a death.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use host::disk::Access;
use host::ring::RingWatch;
use ipc::control::Channel;
use ipc::fd::blk;
use ipc::health::HealthPage;
use ipc::log_format::LogFormat;
use ipc::record::{BlkEngine, BlkRecord, Geometry, VERSION};
use ipc::seccomp::Mode;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::{Backend, SupervisedError};

/// How much of a dead generation is waited for before the next one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// The end of everything that it had begun: what a supervisor has to wait for.
    #[default]
    Whole,
    /// The end of its process, to see that this is not enough.
    Process,
    /// Nothing at all, to see what comes of that.
    Off,
}

/// How long the storage may take to finish what a dead generation had begun.
const FENCE_PATIENCE: Duration = Duration::from_secs(120);

/// A disk whose backends come and go.
#[derive(Debug)]
pub struct DiskSlot {
    /// The program.
    pub binary: PathBuf,
    /// Whether it does its I/O with threads instead of rings.
    pub threads: bool,
    /// What every io_uring_enter(2) of generations started from now on fails with.
    pub enter_errno: Option<u32>,
    /// The number of queues.
    pub queues: u16,
    /// The most entries of a queue.
    pub queue_size: u16,
    /// Only to open it anew and to look at its marks, never for I/O.
    image: Arc<File>,
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
        let (image, geometry) = host::disk::open(image, access)?;
        Ok(Self {
            binary: binary.into(),
            threads: false,
            enter_errno: None,
            queues,
            queue_size,
            image: Arc::new(image),
            geometry,
            access,
            listener: UnixListener::bind(socket)?,
            inflight: ipc::inflight::create(queues, queue_size)?,
        })
    }

    /// Generations started from now on have their image elsewhere: another way to the same content.
    pub fn move_to(&mut self, image: &Path) -> Result<(), SupervisedError> {
        let (image, geometry) = host::disk::open(image, self.access)?;
        (self.image, self.geometry) = (Arc::new(image), geometry);
        Ok(())
    }

    /// Generations started from now on take the image's storage for one of blocks of this size.
    pub fn set_storage_blocks(&mut self, block_bytes: u32) {
        self.geometry.storage_block_bytes = block_bytes;
    }

    /// Its size.
    pub fn capacity_bytes(&self) -> u64 {
        self.geometry.capacity_bytes
    }

    /// Where its frontends come to.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// The in-flight region.
    pub fn inflight(&self) -> &OwnedFd {
        &self.inflight
    }

    /// Starts a generation of the backend. `after_crash` says that the one before died of itself,
    /// and was not killed.
    pub fn start(&self, after_crash: bool) -> Result<Generation, SupervisedError> {
        let mut fds = Vec::new();
        let (mut rings, mut params) = (Vec::new(), Vec::new());
        let mark = fresh_mark();
        let opening = self.reopen()?;
        host::disk::mark_byte(&opening, mark)?;
        if self.threads {
            fds.push((blk::DISK, opening.into()));
        } else {
            for number in (blk::RING..).take(usize::from(self.queues)) {
                let (ring, param) = host::ring::create(self.queue_size, opening.as_fd())?;
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
        fds.push((blk::INFLIGHT, self.inflight.as_fd().try_clone_to_owned()?));
        let filter = self.enter_errno.map(enter_fails_with).transpose()?;
        let listener = (blk::LISTENER, &self.listener);
        let Backend {
            child,
            control,
            health,
        } = super::start(&self.binary, &record, listener, fds, filter)?;
        Ok(Generation {
            child,
            control,
            health,
            rings,
            image: self.image.clone(),
            mark,
        })
    }

    /// Opens the image for one generation, which will be its last user.
    fn reopen(&self) -> io::Result<File> {
        let direct = if self.access.direct {
            libc::O_DIRECT
        } else {
            0
        };
        OpenOptions::new()
            .read(true)
            .write(!self.access.readonly)
            .custom_flags(direct)
            .open(format!("/proc/self/fd/{}", self.image.as_raw_fd()))
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
            awaits_sync: false,
            seccomp: Mode::Kill,
            log_format: LogFormat::Text,
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
    image: Arc<File>,
    mark: i64,
}

/// A byte of an image, beyond any content, that no other generation marks.
fn fresh_mark() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(0);
    let generation = NEXT.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff;
    (1 << 62) + (i64::from(std::process::id() & 0x3f_ffff) << 32) + generation
}

impl Generation {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it, and waits until nothing it has begun can happen any more. Returns how long that
    /// took after its end; `None` if it is not over within two minutes.
    pub fn kill(self) -> io::Result<Option<Duration>> {
        self.kill_behind(Fence::Whole)
    }

    /// Sends the signal that ends it, and waits for nothing.
    pub fn end(&self) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        Ok(nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL)?)
    }

    /// Kills it, and waits for as much of it as the fence says.
    pub fn kill_behind(mut self, fence: Fence) -> io::Result<Option<Duration>> {
        self.child.kill()?;
        match fence {
            Fence::Off => {
                std::thread::spawn(move || self.child.wait());
                Ok(Some(Duration::ZERO))
            }
            Fence::Process => self.child.wait().map(|_| Some(Duration::ZERO)),
            Fence::Whole => {
                self.child.wait()?;
                self.drain()
            }
        }
    }

    /// Once it has ended: waits until nothing it has begun can happen any more.
    pub fn drain(&self) -> io::Result<Option<Duration>> {
        let ended = Instant::now();
        while !self.is_over()? {
            if ended.elapsed() > FENCE_PATIENCE {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(Some(ended.elapsed()))
    }

    /// Of one with rings, they tell; of one with threads, the mark of its opening, which goes with
    /// the last user of that, in the kernel or outside.
    fn is_over(&self) -> io::Result<bool> {
        if self.rings.is_empty() {
            let marked = host::disk::is_marked(&self.image, self.mark);
            return marked.map(|marked| !marked).map_err(io::Error::other);
        }
        Ok(self.rings.iter().all(|ring| ring.unfinished() == 0))
    }

    /// How it has ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for it to end of itself.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

/// A filter under which io_uring_enter(2) fails with `errno`, and all else is as ever.
fn enter_fails_with(errno: u32) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into();
    let rules = [(libc::SYS_io_uring_enter, Vec::new())];
    let (pass, fail) = (SeccompAction::Allow, SeccompAction::Errno(errno));
    let filter = arch.and_then(|arch| SeccompFilter::new(rules.into(), pass, fail, arch));
    filter
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}
