// SPDX-License-Identifier: Apache-2.0
//! A device that serves its frontend, to its end.
//!
//! Everything is opened, mapped and started before the frontend is listened to; then the process
//! confines itself.

use std::fmt::Debug;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use host::seccomp::{Filter, SeccompError};
use ipc::health::HealthPage;
use ipc::seccomp::Mode;
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon};

use crate::SharedGuestMemory;
use crate::start_barrier::StartBarrier;
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
    fn barrier(&self) -> &StartBarrier;

    /// Asks every worker to answer `ping`.
    fn ping(&self, ping: u32);

    /// The link goes up, or down; not every device has one.
    fn set_link(&self, _up: bool) {}

    /// It is known whether writes of a predecessor were lost; only disks wait for it.
    fn synced(&self, _lost: bool) {}

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
    /// Never dropped: that would wait for the workers, which end with the process.
    daemon: ManuallyDrop<VhostUserDaemon<Arc<D>>>,
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
            .map(ManuallyDrop::new)
            .map_err(|e| daemon_error(&e))?;
        device.watch(&daemon).map_err(ServeError::Start)?;
        Ok(Self {
            device,
            daemon,
            listener,
            confinement,
        })
    }

    /// The device, to ring its wake.
    pub fn device(&self) -> Arc<D> {
        self.device.clone()
    }

    /// Waits for the frontend to connect, confines the process, and serves until the frontend hangs
    /// up and what is in flight has been completed. The process must end then: the workers do not.
    /// Nothing that the frontend sends has an effect before the process is confined. `confined` hears
    /// whether that could be done, in any thread, unless the frontend leaves first. If it could not,
    /// the process has to end: it never will serve.
    pub fn serve(
        mut self,
        confined: impl FnOnce(Result<(), SeccompError>) + Send + 'static,
    ) -> Result<(), ServeError> {
        let Confinement { filter, health } = self.confinement;
        if matches!(filter, Some((_, Mode::Trap))) {
            host::seccomp::report_violations(health).map_err(ServeError::Handler)?;
        }
        let connected = self.daemon.start(&mut listener(self.listener));
        connected.map_err(|e| daemon_error(&e))?;
        self.device.ping(0);
        self.device.barrier().close_behind(move || {
            let outcome = match filter {
                Some((filter, mode)) => filter.install_in_all_threads(mode),
                None => Ok(()),
            };
            let is_confined = outcome.is_ok();
            confined(outcome);
            is_confined
        });
        let outcome = self.daemon.wait();
        self.device.close();
        match outcome {
            Ok(())
            | Err(DaemonError::HandleRequest(
                ProtocolError::Disconnected | ProtocolError::PartialMessage,
            )) => Ok(()),
            Err(e) => Err(daemon_error(&e)),
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
