// SPDX-License-Identifier: Apache-2.0
//! The devices of a VM and the processes behind them, in the order of the vmm's launch record:
//! disks, whose backends are our children, then those of other programs.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use launch::disk::Geometry;
use launch::fd::vmm::DEVICES_MAX;
use launch::memfd::MemfdError;
use launch::record::{DeviceKind, DeviceRecord};
use nix::errno::Errno;
use spec::api::ProcessInfo;
use spec::{VhostUser, VhostUserKind, Vm};

use super::poll::{Interests, earlier};

mod disk;
mod fence;
mod generation;
mod rendezvous;
mod restarts;

pub(crate) use disk::News;
pub(crate) use generation::Means;
pub(crate) use rendezvous::{Rendezvous, connect};

use disk::Disk;
use generation::BackendError;

const _: () = assert!(DEVICES_MAX == spec::DEVICES_MAX);

/// A device cannot be had for a fresh vmm.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// There is no in-flight region.
    #[error("disk {0:?}")]
    Inflight(String, #[source] MemfdError),
    /// A descriptor could not be duplicated.
    #[error("disk {0:?}: cannot duplicate a file descriptor")]
    Duplicate(String, #[source] std::io::Error),
    /// Its backend could not be started.
    #[error("disk {0:?}: its backend")]
    Backend(String, #[source] BackendError),
    /// Another program's backend is not there any more.
    #[error("vhost-user {0:?}: cannot connect again")]
    Connect(PathBuf, #[source] Errno),
}

/// An image that was opened and locked.
#[derive(Debug)]
pub(crate) struct Image {
    /// For this VM's whole life; every backend gets an opening of its own.
    pub(crate) file: File,
    /// What it is.
    pub(crate) geometry: Geometry,
}

/// What a vmm gets for a device.
#[derive(Debug)]
pub(crate) struct Link {
    /// Connected to the backend.
    pub(crate) stream: OwnedFd,
    /// Shared with the backends.
    pub(crate) inflight: Option<OwnedFd>,
}

/// A device whose backend is another program.
#[derive(Debug)]
struct Foreign {
    socket: PathBuf,
    /// For the first vmm; each later one gets its own.
    stream: Option<OwnedFd>,
}

/// All devices of a VM.
#[derive(Debug)]
pub(crate) struct Devices {
    disks: Vec<Disk>,
    foreign: Vec<Foreign>,
}

impl Devices {
    /// Takes what the janitor opened, in the order of the spec.
    pub(crate) fn new(vm: &Vm, images: Vec<Image>, streams: Vec<OwnedFd>) -> Self {
        let disks = vm.disks.iter().cloned().zip(images);
        let foreign = vm.vhost_user.iter().zip(streams);
        Self {
            disks: disks.map(|(spec, image)| Disk::new(spec, image)).collect(),
            foreign: foreign
                .map(|(device, stream)| Foreign {
                    socket: device.socket.clone(),
                    stream: Some(stream),
                })
                .collect(),
        }
    }

    /// Starts or connects a backend for each device of a fresh vmm.
    pub(crate) fn begin(&mut self, means: Option<&Means<'_>>) -> Result<Vec<Link>, BeginError> {
        let mut links = Vec::with_capacity(self.disks.len() + self.foreign.len());
        if let Some(means) = means {
            for disk in &mut self.disks {
                links.push(disk.begin(means)?);
            }
        }
        for device in &mut self.foreign {
            let stream = match device.stream.take() {
                Some(stream) => stream,
                None => connect(&device.socket)
                    .map_err(|errno| BeginError::Connect(device.socket.clone(), errno))?,
            };
            links.push(Link {
                stream,
                inflight: None,
            });
        }
        Ok(links)
    }

    /// Ends all backends for good.
    pub(crate) fn retire(&mut self) {
        self.disks.iter_mut().for_each(Disk::retire);
    }

    /// Whether nothing runs and nothing is in flight, so that a fresh vmm may follow.
    pub(crate) fn are_idle(&self) -> bool {
        self.disks.iter().all(Disk::is_idle)
    }

    /// The disk at this place in the record, if it is one.
    pub(crate) fn disk(&mut self, index: u8) -> Option<&mut Disk> {
        self.disks.get_mut(usize::from(index))
    }

    /// Adds what is waited for.
    pub(crate) fn interests<'a>(&'a self, interests: &mut Interests<'a>) {
        for (index, disk) in (0..).zip(&self.disks) {
            disk.interests(index, interests);
        }
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let all = self.disks.iter().map(Disk::deadline_ns);
        all.fold(None, earlier)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, means: &Means<'_>, now_ns: u64) -> Vec<(u8, News)> {
        let disks = (0..).zip(&mut self.disks);
        let news = disks.filter_map(|(index, disk)| Some((index, disk.tick(means, now_ns)?)));
        news.collect()
    }

    /// For `inspect`.
    pub(crate) fn infos(&self) -> Vec<ProcessInfo> {
        self.disks.iter().filter_map(Disk::info).collect()
    }
}

/// What the vmm is told of a VM's devices.
pub(crate) fn records(vm: &Vm) -> Vec<DeviceRecord> {
    let disks = vm.disks.iter().map(|disk| DeviceRecord {
        id: disk.id.to_string(),
        kind: DeviceKind::Block,
        queues: disk.queues,
        queue_size: disk.queue_size,
        foreign: false,
        inflight: true,
    });
    disks.chain(vm.vhost_user.iter().map(foreign)).collect()
}

fn foreign(device: &VhostUser) -> DeviceRecord {
    DeviceRecord {
        id: device.id.to_string(),
        kind: match &device.kind {
            VhostUserKind::Fs(tag) => DeviceKind::Fs(tag.clone()),
            VhostUserKind::Vsock => DeviceKind::Vsock,
            VhostUserKind::Rng => DeviceKind::Rng,
            VhostUserKind::Blk => DeviceKind::Block,
            VhostUserKind::Net => DeviceKind::Net,
            VhostUserKind::Other(id) => DeviceKind::Other(*id),
        },
        queues: device.queues,
        queue_size: device.queue_size,
        foreign: true,
        inflight: false,
    }
}
