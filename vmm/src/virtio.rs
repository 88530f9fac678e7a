// SPDX-License-Identifier: Apache-2.0
//! The virtio devices of the launch record: each gets a PCI slot, a thread, and the stream to its
//! backend. The backend's process implements the device itself.

mod hold;
mod reporter;
mod throttle;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use devices::virtio::device::DeviceType;
use devices::virtio::vhost_user::device::{DeviceError, VhostUserDevice};
use devices::virtio::vhost_user::inflight::{InflightError, InflightRegion};
use devices::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin, Timeouts};
use devices::virtio::vhost_user::worker::Worker;
use ipc::control::{Channel, ToDevice};
use ipc::fd::{self, FdError};
use ipc::record::{DeviceKind, DeviceRecord, VmmRecord};
use ipc::seccomp::Mode;
use ipc::slot::DeviceSlot;
use log::{error, warn};

use crate::memory::GuestMemory;
use crate::seccomp;
use crate::state::{Parts, StateError};
use reporter::Reporter;

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum VirtioError {
    /// One of its descriptors is missing.
    #[error(transparent)]
    Fd(#[from] FdError),
    /// Its in-flight region cannot be used.
    #[error("device {id}")]
    Inflight {
        /// The device's name.
        id: String,
        /// The error.
        #[source]
        source: InflightError,
    },
    /// The device cannot be made.
    #[error("device {id}")]
    Device {
        /// The device's name.
        id: String,
        /// The error.
        #[source]
        source: DeviceError,
    },
    /// What its driver was shown by the vmm before is missing or malformed.
    #[error(transparent)]
    State(#[from] StateError),
    /// It cannot show its driver what the vmm before has shown.
    #[error("device {id:?}")]
    Restore {
        /// Its name.
        id: String,
        /// The error.
        #[source]
        source: devices::state::StateError,
    },
    /// Its thread cannot be started.
    #[error("cannot start the thread of device {id}")]
    Spawn {
        /// The device's name.
        id: String,
        /// The error.
        #[source]
        source: std::io::Error,
    },
}

/// One virtio device.
#[derive(Debug)]
pub struct Device {
    id: String,
    slot: DeviceSlot,
    device: Arc<VhostUserDevice>,
    /// Of a device that was restored: the stream to its backend, until the driver is restored, too.
    stream: Option<OwnedFd>,
}

impl Device {
    /// Makes the devices of a record. Each gets its thread and its first backend's stream; those that
    /// take up a state use it from [`Self::connect`] on.
    pub fn make_all(
        all: &VmmRecord,
        memory: &GuestMemory,
        supervisor: &Arc<Channel>,
        parts: Option<&Parts>,
    ) -> Result<Vec<Self>, VirtioError> {
        let make = |record: &DeviceRecord| {
            let reporter = Reporter::new(record.slot, &record.id, supervisor);
            let mut device = Self::make(record, memory, reporter, all.seccomp)?;
            match parts {
                Some(parts) => device.restore(parts)?,
                None => device.connect(),
            }
            Ok(device)
        };
        all.devices.iter().map(make).collect()
    }

    fn make(
        record: &DeviceRecord,
        memory: &GuestMemory,
        reporter: Reporter,
        seccomp: Mode,
    ) -> Result<Self, VirtioError> {
        let (stream, region) = fd::vmm::device(record.slot);
        let stream = fd::claim(stream)?;
        let inflight = match record.inflight {
            true => Some(InflightRegion::map(fd::claim(region)?)),
            false => None,
        };
        let inflight = inflight
            .transpose()
            .map_err(|source| VirtioError::Inflight {
                id: record.id.clone(),
                source,
            })?;
        Self::new(record, memory, (stream, inflight), reporter, seccomp)
    }

    fn new(
        record: &DeviceRecord,
        memory: &GuestMemory,
        (stream, inflight): (OwnedFd, Option<InflightRegion>),
        reporter: Reporter,
        seccomp: Mode,
    ) -> Result<Self, VirtioError> {
        let id = record.id.clone();
        let made = VhostUserDevice::new(
            spec_of(record),
            memory.clone(),
            inflight,
            Arc::new(reporter),
        );
        let (device, worker) = made.map_err(|source| VirtioError::Device {
            id: id.clone(),
            source,
        })?;
        spawn(&id, worker, seccomp).map_err(|source| VirtioError::Spawn {
            id: id.clone(),
            source,
        })?;
        if let DeviceKind::Net(nic) = &record.kind {
            device.set_link(nic.link_up);
        }
        Ok(Self {
            id,
            slot: record.slot,
            device: Arc::new(device),
            stream: Some(stream),
        })
    }

    /// The device's place in the VM.
    pub fn slot(&self) -> DeviceSlot {
        self.slot
    }

    /// The device, for the transport.
    pub fn device(&self) -> Arc<VhostUserDevice> {
        Arc::clone(&self.device)
    }

    /// Waits until the device has had a backend, so that its driver finds features; false on
    /// timeout.
    pub(crate) fn wait_until_connected(&self, timeout: Duration) -> bool {
        self.device.wait_until_connected(timeout)
    }

    /// Handles the supervisor's message for the device in `slot`; `stream` was attached to it.
    pub fn dispatch(
        devices: &[Self],
        slot: DeviceSlot,
        message: ToDevice,
        stream: Option<OwnedFd>,
    ) {
        match devices.iter().find(|device| device.slot == slot) {
            Some(device) => device.obey(message, stream),
            None => warn!("there is no device in slot {slot}"),
        }
    }

    /// Handles a message of the supervisor; `stream` was attached to it.
    fn obey(&self, message: ToDevice, stream: Option<OwnedFd>) {
        match (message, stream) {
            (ToDevice::Attach, Some(stream)) => self.device.attach(stream),
            (ToDevice::Probe, Some(stream)) => self.device.probe(stream),
            (ToDevice::Attach | ToDevice::Probe, None) => {
                warn!(device_id = self.id; "a backend without a stream");
            }
            (ToDevice::Switch, _) => self.device.switch(),
            (ToDevice::Fenced, _) => self.device.fenced(),
            (ToDevice::Drain, _) => self.device.drain(),
            (ToDevice::Resume, _) => self.device.resume(),
            (ToDevice::Link(up), _) => self.device.set_link(up),
        }
    }
}

fn spawn(id: &str, worker: Worker, mode: Mode) -> std::io::Result<()> {
    let body = move || {
        // Without its thread the device never connects, and the VM does not start.
        if let Err(e) = seccomp::DEVICE.install(mode) {
            return error!("{}", host::log::chain(&e));
        }
        worker.run();
        // The device was dropped because the start failed. The thread must not end under its
        // filter: the kernel would kill the process before it has told the supervisor why.
        loop {
            std::thread::park();
        }
    };
    // The kernel keeps 15 bytes of a thread's name.
    let name: String = id.chars().take(15).collect();
    std::thread::Builder::new()
        .name(name)
        .stack_size(256 << 10)
        .spawn(body)
        .map(drop)
}

/// How a device is made that a record asks for.
pub(crate) fn spec_of(record: &DeviceRecord) -> DeviceSpec {
    let device_type = match record.kind {
        DeviceKind::Block => DeviceType::BLOCK,
        DeviceKind::Net(_) => DeviceType::NET,
        DeviceKind::Rng => DeviceType::RNG,
        DeviceKind::Vsock => DeviceType::VSOCK,
        DeviceKind::Fs(_) => DeviceType::FS,
        DeviceKind::PowerButton => DeviceType::INPUT,
        DeviceKind::Other(id) => DeviceType(id),
    };
    let config = match &record.kind {
        // The first queue is the high-priority queue, the others are request queues (virtio 1.2,
        // §5.11.2).
        DeviceKind::Fs(tag) => {
            ConfigSource::file_system(tag, u32::from(record.queues.saturating_sub(1)))
        }
        DeviceKind::Net(nic) => ConfigSource::Nic { mac: nic.mac },
        DeviceKind::PowerButton => ConfigSource::PowerButton,
        _ => ConfigSource::of(device_type),
    };
    DeviceSpec {
        device_type,
        queue_max_sizes: vec![record.queue_size; usize::from(record.queues)],
        config,
        origin: if record.foreign {
            Origin::Foreign
        } else {
            Origin::Own
        },
        timeouts: Timeouts::default(),
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

#[cfg(test)]
mod confined_tests;
