// SPDX-License-Identifier: Apache-2.0
//! Turns what the process was given into a NIC that can be served.

use std::io;
use std::os::fd::OwnedFd;

use device_backend::serve::{Confinement, ServeError, Service};
use device_backend::shared_mem::{SharedMem, SharedMemError};
use ipc::fd::net::STATE_BYTES;
use ipc::health::HealthPage;
use ipc::seccomp::Mode;

use crate::config::Nic;
use crate::device::Device;
use crate::shared::Shared;
use crate::worker::Worker;

/// The device cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The control state cannot be used.
    #[error("cannot map the control state")]
    State(#[source] SharedMemError),
    /// The tap has not as many queues as there are pairs.
    #[error("{taps} queues of the tap for {pairs} pairs of queues")]
    Taps {
        /// The tap's queues.
        taps: usize,
        /// The pairs.
        pairs: u16,
    },
    /// An eventfd could not be made.
    #[error("cannot start the workers")]
    Workers(#[source] io::Error),
    /// The device cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// What the device is started with.
#[derive(Debug)]
pub struct StartParams {
    /// The NIC.
    pub nic: Nic,
    /// The socket that the frontend connects to: bound, listening, not connected.
    pub listener: OwnedFd,
    /// The tap's queues, one for each pair.
    pub taps: Vec<OwnedFd>,
    /// The control state, if it outlives the process.
    pub state: Option<OwnedFd>,
    /// Whether the link is up.
    pub link_up: bool,
    /// The page for the device's own statements about its health.
    pub health: &'static HealthPage,
    /// How long a worker thread polls for work before it sleeps.
    pub poll_us: u32,
    /// What the kernel does about a system call outside the filter; `None` for no filter.
    pub seccomp: Option<Mode>,
}

/// Starts everything that must run before the first message of the frontend.
pub fn start(params: StartParams) -> Result<Service<Device>, StartError> {
    let (taps, pairs) = (params.taps.len(), params.nic.pairs);
    if taps != usize::from(pairs) {
        return Err(StartError::Taps { taps, pairs });
    }
    let confinement = Confinement {
        filter: params.seccomp.map(|mode| (&crate::seccomp::NET, mode)),
        health: params.health,
    };
    let state = params.state.map(|fd| SharedMem::of_file(fd, STATE_BYTES));
    let state = state.transpose().map_err(StartError::State)?;
    let shared = Shared::new(
        params.nic,
        params.taps,
        state,
        params.link_up,
        params.health,
    );
    let workers = (0..pairs).map(|pair| Worker::new(pair, shared.clone(), params.poll_us));
    let device = Device::new(shared.clone(), workers).map_err(StartError::Workers)?;
    Ok(Service::start(device, params.listener, confinement)?)
}
