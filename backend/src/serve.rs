// SPDX-License-Identifier: Apache-2.0
//! A device that serves its frontend, to its end.
//!
//! Everything is opened, mapped and started before the frontend is listened to; then the process
//! confines itself.

use std::fmt::Debug;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use launch::health::HealthPage;
use launch::seccomp::{Filter, Mode, SeccompError};
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon};

use crate::SharedGuestMemory;
use crate::gate::{Gate, Visitor};
use crate::vring::Vring;

/// The stack of threads that do little.
pub(crate) const STACK_BYTES: usize = 64 << 10;

/// What serving a device has to know of it, beyond what vhost-user-backend does.
pub trait Device: VhostUserBackend<Bitmap = (), Vring = Vring> + Debug + Sized + 'static {
    /// Guest memory, for the daemon that will fill it.
    fn memory(&self) -> SharedGuestMemory;

    /// Lets each worker hear of what its queues do not tell.
    fn watch(&self, daemon: &VhostUserDaemon<Arc<Self>>) -> io::Result<()>;

    /// Where its threads wait until they are confined.
    fn gate(&self) -> &Gate;

    /// Asks every worker to answer `ping`.
    fn ping(&self, ping: u32);

    /// The link goes up, or down; not every device has one.
    fn set_link(&self, _up: bool) {}

    /// The frontend is gone: takes nothing more and completes what is in flight.
    fn close(&self) {}
}

/// The device cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A thread or an eventfd could not be made.
    #[error("cannot start the workers")]
    Start(#[source] io::Error),
    /// The daemon of vhost-user-backend failed; its errors cannot cross threads.
    #[error("cannot serve the frontend: {0}")]
    Daemon(String),
    /// The handler of `--seccomp log` could not be installed.
    #[error("cannot handle SIGSYS")]
    Handler(#[source] nix::Error),
    /// The filter could not be installed.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// How a process is confined.
#[derive(Debug, Clone, Copy)]
pub struct Confinement {
    /// The system calls it may make; `None` for all.
    pub filter: Option<(&'static Filter, Mode)>,
    /// Where a call outside the filter is noted.
    pub health: &'static HealthPage,
}

/// A device whose threads run, before its frontend has connected.
pub struct Service<D: Device> {
    device: Arc<D>,
    daemon: VhostUserDaemon<Arc<D>>,
    listener: OwnedFd,
    confinement: Confinement,
}

impl<D: Device> Debug for Service<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.device.fmt(f)
    }
}

impl<D: Device> Service<D> {
    /// Starts everything that has to run before the frontend is heard. It will connect to
    /// `listener`: bound, listening, not connected.
    pub fn start(
        device: Arc<D>,
        listener: OwnedFd,
        confinement: Confinement,
    ) -> Result<Self, ServeError> {
        let daemon = VhostUserDaemon::new("vhost-user".into(), device.clone(), device.memory())
            .map_err(|e| daemon_error(&e))?;
        device.watch(&daemon).map_err(ServeError::Start)?;
        Ok(Self {
            device,
            daemon,
            listener,
            confinement,
        })
    }

    /// The device, to ring its bell.
    pub fn device(&self) -> Arc<D> {
        self.device.clone()
    }

    /// Waits for the frontend to connect, then confines the process. Nothing that the frontend sends
    /// has an effect before that.
    pub fn accept(mut self) -> Result<Serving<D>, ServeError> {
        let Confinement { filter, health } = self.confinement;
        if matches!(filter, Some((_, Mode::Trap))) {
            launch::seccomp::report_violations(health).map_err(ServeError::Handler)?;
        }
        let mut listener = listener(self.listener);
        self.daemon
            .start(&mut listener)
            .map_err(|e| daemon_error(&e))?;
        let (device, mut daemon) = (self.device.clone(), self.daemon);
        let wait = move || {
            device.gate().arrive(Visitor::Waiter);
            let outcome = daemon.wait();
            device.gate().end();
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
        self.device.gate().confine(|| match filter {
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
pub struct Serving<D> {
    device: Arc<D>,
    thread: JoinHandle<Result<(), Option<ServeError>>>,
}

impl<D: Device> Serving<D> {
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
    // SAFETY: the descriptor is owned, and given away here.
    unsafe { Listener::from_raw_fd(fd.into_raw_fd()) }
}
