// SPDX-License-Identifier: Apache-2.0
//! From the inherited or opened resources to a disk that can be served.

use std::io;
use std::os::fd::OwnedFd;

use device_backend::serve::{Confinement, ServeError, Service};
use device_backend::shared_mem::{SharedMem, SharedMemError};
use ipc::health::HealthPage;
use ipc::inflight::{queue_bytes, region_bytes};
use ipc::seccomp::Mode;

use crate::config::Disk;
use crate::device::Device;
use crate::engine::Source;
use crate::shared::Shared;
use crate::worker::Worker;

/// Why the device cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The in-flight region cannot be used.
    #[error("cannot map the in-flight region")]
    Inflight(#[source] SharedMemError),
    /// The number of rings differs from the number of queues.
    #[error("{rings} rings for {queues} queues")]
    Rings {
        /// The number of rings.
        rings: usize,
        /// The number of queues.
        queues: u16,
    },
    /// A thread or an eventfd cannot be made.
    #[error("cannot start the workers")]
    Workers(#[source] io::Error),
    /// The device cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// The parameters of [`start`].
#[derive(Debug)]
pub struct StartParams {
    /// The disk.
    pub disk: Disk,
    /// The frontend's socket: bound, listening, not connected.
    pub listener: OwnedFd,
    /// What the engines use for I/O.
    pub engine: Source,
    /// The in-flight region, if it outlives the process.
    pub inflight: Option<OwnedFd>,
    /// Whether the previous generation died of itself.
    pub after_crash: bool,
    /// Whether flushes wait until the supervisor says whether writes were lost.
    pub awaits_sync: bool,
    /// The health page.
    pub health: &'static HealthPage,
    /// How long a worker polls before it sleeps, in µs.
    pub poll_us: u32,
    /// What happens on a system call outside the filter; `None` for no filter.
    pub seccomp: Option<Mode>,
}

/// Starts everything that must run before the frontend is accepted.
pub fn start(params: StartParams) -> Result<Service<Device>, StartError> {
    let (queues, queue_size) = (params.disk.queues, params.disk.queue_size);
    let confinement = Confinement {
        filter: params.seccomp.map(|mode| (params.engine.filter(), mode)),
        health: params.health,
    };
    let mut regions = Vec::new();
    if let Some(fd) = params.inflight {
        let window = SharedMem::of_file(fd, region_bytes(queues, queue_size));
        let window = window.map_err(StartError::Inflight)?;
        let len = queue_bytes(queue_size);
        regions.extend((0..usize::from(queues)).map(|queue| window.part(queue * len, len)));
    }
    let shared = Shared::new(params.disk, params.health, params.after_crash);
    if params.awaits_sync {
        shared.witness.expect();
    }
    let engines = params.engine.engines(queues);
    let engines = engines.map_err(StartError::Workers)?;
    if engines.len() != usize::from(queues) {
        let rings = engines.len();
        return Err(StartError::Rings { rings, queues });
    }
    let workers = (0..queues).zip(engines).map(|(queue, engine)| {
        let region = regions.get(usize::from(queue)).cloned();
        Worker::new(queue, shared.clone(), engine, region, params.poll_us)
    });
    let device = Device::new(shared.clone(), workers).map_err(StartError::Workers)?;
    Ok(Service::start(device, params.listener, confinement)?)
}
