// SPDX-License-Identifier: Apache-2.0
//! From what the process was given to a device that serves its frontend, and to its end.
//!
//! Everything is opened, mapped and started before the frontend is listened to; then the process
//! confines itself.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use backend::window::{Window, WindowError};
use launch::fd::net::STATE_BYTES;
use launch::health::HealthPage;
use launch::seccomp::{Mode, SeccompError};
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};

use crate::config::Nic;
use crate::device::{Device, Shared};

/// The stack of threads that do little.
const STACK_BYTES: usize = 64 << 10;

/// The device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The control state cannot be used.
    #[error("cannot map the control state")]
    State(#[source] WindowError),
    /// There are not as many queues of the tap as pairs.
    #[error("{taps} queues of the tap for {pairs} pairs of queues")]
    Taps {
        /// What came.
        taps: usize,
        /// What is needed.
        pairs: u16,
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
    /// The network card.
    pub nic: Nic,
    /// Where the frontend connects: bound, listening, not connected.
    pub listener: OwnedFd,
    /// The queues of the tap, as many as pairs.
    pub taps: Vec<OwnedFd>,
    /// The control state, if it outlives the process.
    pub state: Option<OwnedFd>,
    /// Whether the link is up.
    pub link_up: bool,
    /// Where to say how it goes.
    pub health: &'static HealthPage,
    /// How long a worker looks for work before it sleeps.
    pub poll_us: u32,
    /// What a system call outside the filter does; `None` for no filter.
    pub seccomp: Option<Mode>,
}

/// A device whose threads run, before its frontend has connected.
pub struct Service {
    device: Arc<Device>,
    daemon: VhostUserDaemon<Arc<Device>>,
    listener: OwnedFd,
    filter: Option<Mode>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.device.fmt(f)
    }
}

impl Service {
    /// Starts everything that has to run before the frontend is heard.
    pub fn start(given: Given) -> Result<Self, ServeError> {
        let (taps, pairs) = (given.taps.len(), given.nic.pairs);
        if taps != usize::from(pairs) {
            return Err(ServeError::Taps { taps, pairs });
        }
        let state = given.state.map(|fd| Window::of_file(fd, STATE_BYTES));
        let state = state.transpose().map_err(ServeError::State)?;
        let shared = Shared::new(given.nic, given.taps, state, given.link_up, given.health);
        let device = Device::new(shared, given.poll_us).map_err(ServeError::Start)?;
        let daemon = VhostUserDaemon::new("vhost-user".into(), device.clone(), device.memory())
            .map_err(|e| daemon_error(&e))?;
        device.watch(&daemon).map_err(ServeError::Start)?;
        Ok(Self {
            device,
            daemon,
            listener: given.listener,
            filter: given.seccomp,
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
            Some(mode) => crate::seccomp::NET.install_in_all_threads(mode),
            None => Ok(()),
        })?;
        Ok(Serving { thread })
    }
}

/// A device that serves its frontend.
#[derive(Debug)]
pub struct Serving {
    thread: JoinHandle<Result<(), Option<ServeError>>>,
}

impl Serving {
    /// Waits until the frontend hangs up. The process must end then: the workers do not.
    pub fn wait(self) -> Result<(), ServeError> {
        match self.thread.join() {
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
