// SPDX-License-Identifier: Apache-2.0
//! Serves a device to its frontend.
//!
//! The process opens, maps and starts everything before it accepts the frontend; then it confines
//! itself.

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

/// The stack size of threads that do little.
pub(crate) const STACK_BYTES: usize = 64 << 10;

/// What serving a device needs beyond [`VhostUserBackend`].
pub trait Device: VhostUserBackend<Bitmap = (), Vring = Vring> + Debug + Sized + 'static {
    /// Guest memory, for the daemon that replaces it.
    fn memory(&self) -> SharedGuestMemory;

    /// Makes each worker's event loop watch its engine and its wake event.
    fn watch(&self, daemon: &VhostUserDaemon<Arc<Self>>) -> io::Result<()>;

    /// The barrier where its threads wait until they are confined.
    fn barrier(&self) -> &StartBarrier;

    /// Asks every worker to store `ping` as its heartbeat.
    fn ping(&self, ping: u32);

    /// Sets the link up or down; does nothing if the device has none.
    fn set_link(&self, _up: bool) {}

    /// The power button has been pressed so often since the vmm's start; does nothing if the device
    /// is no button.
    fn press(&self, _count: u32) {}

    /// Called when the supervisor knows whether writes of an earlier backend were lost; only disks
    /// wait for it.
    fn synced(&self, _lost: bool) {}

    /// The frontend is gone: takes no more requests and completes those in flight.
    fn close(&self) {}
}

/// Why a device cannot be served.
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

/// How the process is confined.
#[derive(Debug, Clone, Copy)]
pub struct Confinement {
    /// The filter to install; `None` for no filter.
    pub filter: Option<(&'static Filter, Mode)>,
    /// Where to store the number of a call outside the filter.
    pub health: &'static HealthPage,
}

/// A device whose threads run, before its frontend has connected.
pub struct Service<D: Device> {
    device: Arc<D>,
    /// Never dropped: dropping would wait for the workers, which run until the process ends.
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
    /// Starts everything that must run before the frontend is accepted. The frontend will connect
    /// to `listener`: bound, listening, not connected.
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

    /// The device, for the thread that handles the supervisor's messages.
    pub fn device(&self) -> Arc<D> {
        self.device.clone()
    }

    /// Waits for the frontend to connect, confines the process, and serves until the frontend hangs
    /// up and the requests in flight are completed. Then the process must end: the workers do not.
    /// No request of the frontend has an effect before the process is confined. `confined` is
    /// called in any thread with the result, unless the frontend hangs up first. On an error it
    /// must end the process, which will never serve.
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
