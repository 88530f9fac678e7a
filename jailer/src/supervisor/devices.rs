// SPDX-License-Identifier: Apache-2.0
//! The devices of a VM and the processes behind them, in the order of the vmm's launch record:
//! first ours, whose backends are our children, then those of other programs.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use launch::disk::Geometry;
use launch::fd::vmm::DEVICES_MAX;
use launch::memfd::MemfdError;
use launch::record::{DeviceKind, DeviceRecord, NicRecord};
use spec::api::{DeviceInfo, DeviceStats, ProcessInfo};
use spec::{MacAddress, VhostUser, VhostUserKind, Vm, VmName};

use super::janitor::AskError;
use super::poll::{Interests, earlier};

mod backend;
mod disk;
mod fence;
mod kind;
mod rendezvous;
mod restarts;
mod slot;
mod watch;

pub(crate) use kind::Means;
pub(crate) use rendezvous::connect;
pub(crate) use slot::News;

use disk::Disk;
use kind::BackendError;
use slot::Slot;

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
    #[error("{0}: its backend")]
    Backend(String, #[source] BackendError),
    /// Another program's backend is not there any more.
    #[error("vhost-user {0:?}: cannot connect again")]
    Connect(PathBuf, #[source] AskError),
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
    /// Those whose backends are our children.
    own: Vec<Slot>,
    foreign: Vec<Foreign>,
}

impl Devices {
    /// Takes what the janitor opened, in the order of the spec.
    pub(crate) fn new(vm: &Vm, images: Vec<Image>, streams: Vec<OwnedFd>) -> Self {
        let disks = (0..).zip(vm.disks.iter().cloned()).zip(images);
        let foreign = vm.vhost_user.iter().zip(streams);
        Self {
            own: disks
                .map(|((index, spec), image)| Slot::new(Disk::new(index, spec, image)))
                .collect(),
            foreign: foreign
                .map(|(device, stream)| Foreign {
                    socket: device.socket.clone(),
                    stream: Some(stream),
                })
                .collect(),
        }
    }

    /// Starts or connects a backend for each device of a fresh vmm.
    pub(crate) fn begin(&mut self, means: &Means<'_>) -> Result<Vec<Link>, BeginError> {
        let mut links = Vec::with_capacity(self.own.len() + self.foreign.len());
        for slot in &mut self.own {
            links.push(slot.begin(means)?);
        }
        for (index, device) in (0..).zip(&mut self.foreign) {
            let stream = match device.stream.take() {
                Some(stream) => stream,
                None => means
                    .janitor
                    .connect_foreign(index)
                    .map_err(|error| BeginError::Connect(device.socket.clone(), error))?,
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
        self.own.iter_mut().for_each(Slot::retire);
    }

    /// Whether nothing runs and nothing is in flight, so that a fresh vmm may follow.
    pub(crate) fn are_idle(&self) -> bool {
        self.own.iter().all(Slot::is_idle)
    }

    /// The device at this place in the record, if it is one of ours.
    pub(crate) fn slot(&mut self, index: u8) -> Option<&mut Slot> {
        self.own.get_mut(usize::from(index))
    }

    /// Adds what is waited for.
    pub(crate) fn interests<'a>(&'a self, interests: &mut Interests<'a>) {
        for (index, slot) in (0..).zip(&self.own) {
            slot.interests(index, interests);
        }
    }

    /// When [`Self::tick`] is to be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let all = self.own.iter().map(Slot::deadline_ns);
        all.fold(None, earlier)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, means: &Means<'_>, now_ns: u64) {
        for slot in &mut self.own {
            slot.tick(means, now_ns);
        }
    }

    /// What has become of each device since this was last asked.
    pub(crate) fn news(&mut self) -> Vec<(u8, News)> {
        let slots = (0..).zip(&mut self.own);
        let news = slots.flat_map(|(index, slot)| {
            let news = slot.news();
            news.into_iter().map(move |news| (index, news))
        });
        news.collect()
    }

    /// The device of this name, and its place in the record: `None` if there is none, or it is
    /// another program's.
    pub(crate) fn find(&mut self, id: &str) -> Option<(u8, &mut Slot)> {
        let mut slots = (0..).zip(&mut self.own);
        slots.find(|(_, slot)| slot.id() == id)
    }

    /// For `inspect`: the processes.
    pub(crate) fn processes(&self) -> Vec<ProcessInfo> {
        self.own.iter().filter_map(Slot::process).collect()
    }

    /// For `stats`.
    pub(crate) fn stats(&self, now_ns: u64) -> Vec<DeviceStats> {
        self.own.iter().map(|slot| slot.stats(now_ns)).collect()
    }

    /// For `inspect`: the devices.
    pub(crate) fn infos(&self) -> Vec<DeviceInfo> {
        self.own.iter().map(Slot::info).collect()
    }
}

/// What the vmm is told of a VM's devices.
pub(crate) fn records(vm: &Vm, name: &VmName) -> Vec<DeviceRecord> {
    let disks = vm.disks.iter().map(|disk| DeviceRecord {
        id: disk.id.to_string(),
        kind: DeviceKind::Block,
        queues: disk.queues,
        queue_size: disk.queue_size,
        foreign: false,
        inflight: true,
    });
    let others = vm.vhost_user.iter().map(|device| foreign(device, name));
    disks.chain(others).collect()
}

fn foreign(device: &VhostUser, vm: &VmName) -> DeviceRecord {
    DeviceRecord {
        id: device.id.to_string(),
        kind: match &device.kind {
            VhostUserKind::Fs(tag) => DeviceKind::Fs(tag.clone()),
            VhostUserKind::Vsock => DeviceKind::Vsock,
            VhostUserKind::Rng => DeviceKind::Rng,
            VhostUserKind::Blk => DeviceKind::Block,
            VhostUserKind::Net => DeviceKind::Net(NicRecord {
                mac: MacAddress::derived(vm.as_str(), device.id.as_str()).bytes(),
                link_up: true,
            }),
            VhostUserKind::Other(id) => DeviceKind::Other(*id),
        },
        queues: device.queues,
        queue_size: device.queue_size,
        foreign: true,
        inflight: false,
    }
}
