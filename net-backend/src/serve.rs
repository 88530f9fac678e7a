// SPDX-License-Identifier: Apache-2.0
//! From what the process was given to a network card that can be served.

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
    /// There are not as many queues of the tap as pairs.
    #[error("{taps} queues of the tap for {pairs} pairs of queues")]
    Taps {
        /// What came.
        taps: usize,
        /// What is needed.
        pairs: u16,
    },
    /// An eventfd could not be made.
    #[error("cannot start the workers")]
    Workers(#[source] io::Error),
    /// It cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// What the process was params.
#[derive(Debug)]
pub struct StartParams {
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

/// Starts everything that has to run before the frontend is heard.
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
