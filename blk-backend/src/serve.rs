// SPDX-License-Identifier: Apache-2.0
//! From what the process was given to a device that serves its frontend, and to its end.
//!
//! Everything is opened, mapped and started before the frontend is listened to; then the process
//! confines itself.

use std::fs::File;
use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use backend::window::{Window, WindowError};
use launch::health::HealthPage;
use launch::inflight::{queue_bytes, region_bytes};
use launch::seccomp::{Filter, Mode, SeccompError};
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};

use crate::config::Disk;
use crate::device::{Device, Shared};
use crate::engine::Engine;
use crate::engine::threads::Threads;
use crate::engine::uring::Uring;
use crate::worker::Worker;

/// The stack of threads that do little.
const STACK_BYTES: usize = 64 << 10;

/// The device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The in-flight region cannot be used.
    #[error("cannot map the in-flight region")]
    Inflight(#[source] WindowError),
    /// There are not as many rings as queues.
    #[error("{rings} rings for {queues} queues")]
    Rings {
        /// What came.
        rings: usize,
        /// What is needed.
        queues: u16,
    },
    /// A thread or an eventfd could not be made.
    #[error("cannot start the workers")]
    Start(#[source] io::Error),
    /// The daemon of vhost-user-backend failed; its errors cannot cross threads.
    #[error("cannot serve the frontend: {0}")]
    Daemon(String),
    /// The filter could not be installed.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// What the process was given.
#[derive(Debug)]
pub struct Given {
    /// The disk.
    pub disk: Disk,
    /// Where the frontend connects: bound, listening, not connected.
    pub listener: OwnedFd,
    /// How to do I/O.
    pub engine: Source,
    /// The in-flight region, if it outlives the process.
    pub inflight: Option<OwnedFd>,
    /// Whether a predecessor died of itself.
    pub after_crash: bool,
    /// Where to say how it goes.
    pub health: &'static HealthPage,
    /// How long a worker looks for work before it sleeps.
    pub poll_us: u32,
    /// What a system call outside the filter does; `None` for no filter.
    pub seccomp: Option<Mode>,
}

/// What the engines are made of.
pub enum Source {
    /// A ring for each queue.
    Rings(Vec<io_uring::IoUring>),
    /// The image, and whether it was opened for direct I/O.
    Threads(Arc<File>, bool),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rings(rings) => write!(f, "Rings({})", rings.len()),
            Self::Threads(..) => write!(f, "Threads"),
        }
    }
}

impl Source {
    fn filter(&self) -> &'static Filter {
        match self {
            Self::Rings(_) => &crate::seccomp::URING,
            Self::Threads(..) => &crate::seccomp::THREADS,
        }
    }

    fn engines(self, queues: u16) -> Result<Vec<Engine>, ServeError> {
        match self {
            Self::Rings(rings) if rings.len() != usize::from(queues) => {
                let rings = rings.len();
                Err(ServeError::Rings { rings, queues })
            }
            Self::Rings(rings) => {
                let engines = rings
                    .into_iter()
                    .map(|ring| Engine::Uring(Box::new(Uring::new(ring))));
                Ok(engines.collect())
            }
            Self::Threads(disk, direct) => (0..queues)
                .map(|_| Threads::new(disk.clone(), direct).map(Engine::Threads))
                .collect::<io::Result<_>>()
                .map_err(ServeError::Start),
        }
    }
}

/// A device whose threads run, before its frontend has connected.
pub struct Service {
    device: Arc<Device>,
    daemon: VhostUserDaemon<Arc<Device>>,
    listener: OwnedFd,
    filter: Option<(&'static Filter, Mode)>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.device.fmt(f)
    }
}

impl Service {
    /// Starts everything that has to run before the frontend is heard.
    pub fn start(given: Given) -> Result<Self, ServeError> {
        let (queues, queue_size) = (given.disk.queues, given.disk.queue_size);
        let filter = given.seccomp.map(|mode| (given.engine.filter(), mode));
        let mut regions = Vec::new();
        if let Some(fd) = given.inflight {
            let window = Window::of_file(fd, region_bytes(queues, queue_size));
            let window = window.map_err(ServeError::Inflight)?;
            let len = queue_bytes(queue_size);
            regions.extend((0..usize::from(queues)).map(|queue| window.part(queue * len, len)));
        }
        let shared = Shared::new(given.disk, given.health, given.after_crash);
        let engines = given.engine.engines(queues)?;
        let workers = (0..queues).zip(engines).map(|(queue, engine)| {
            let region = regions.get(usize::from(queue)).cloned();
            Worker::new(queue, shared.clone(), engine, region, given.poll_us)
        });
        let device = Device::new(shared.clone(), workers.collect()).map_err(ServeError::Start)?;
        let daemon = VhostUserDaemon::new("vhost-user".into(), device.clone(), device.memory())
            .map_err(|e| daemon_error(&e))?;
        device.watch(&daemon).map_err(ServeError::Start)?;
        Ok(Self {
            device,
            daemon,
            listener: given.listener,
            filter,
        })
    }

    /// The device, to ring its bell.
    pub fn device(&self) -> Arc<Device> {
        self.device.clone()
    }

    /// Waits for the frontend to connect, then confines the process. Nothing that the frontend sends
    /// has an effect before that.
    pub fn accept(mut self) -> Result<Serving, ServeError> {
        let mut listener = listener(self.listener);
        self.daemon
            .start(&mut listener)
            .map_err(|e| daemon_error(&e))?;
        let (device, mut daemon) = (self.device.clone(), self.daemon);
        let wait = move || {
            device.gate.arrive();
            let outcome = daemon.wait();
            device.gate.end();
            // The workers end with the process; dropping the daemon would wait for them.
            std::mem::forget(daemon);
            outcome.map_err(|e| match e {
                DaemonError::HandleRequest(
                    ProtocolError::Disconnected | ProtocolError::PartialMessage,
                ) => None,
                e => Some(daemon_error(&e)),
            })
        };
        let thread = std::thread::Builder::new().name("wait".into());
        let thread = thread
            .stack_size(STACK_BYTES)
            .spawn(wait)
            .map_err(ServeError::Start)?;
        self.device.ping(0);
        self.device.confine(|| match self.filter {
            Some((filter, mode)) => filter.install_in_all_threads(mode),
            None => Ok(()),
        })?;
        Ok(Serving {
            device: self.device,
            thread,
        })
    }
}

/// A device that serves its frontend.
#[derive(Debug)]
pub struct Serving {
    device: Arc<Device>,
    thread: JoinHandle<Result<(), Option<ServeError>>>,
}

impl Serving {
    /// Waits until the frontend hangs up, and completes what is in flight. The process must end
    /// then: the workers do not.
    pub fn wait(self) -> Result<(), ServeError> {
        let outcome = self.thread.join();
        self.device.close();
        match outcome {
            Ok(Err(Some(e))) => Err(e),
            _ => Ok(()),
        }
    }
}

fn daemon_error(error: &DaemonError) -> ServeError {
    ServeError::Daemon(error.to_string())
}

#[allow(unsafe_code)]
fn listener(fd: OwnedFd) -> Listener {
    use std::os::fd::FromRawFd;
    // SAFETY: the descriptor is owned, and given away here.
    unsafe { Listener::from_raw_fd(fd.into_raw_fd()) }
}
