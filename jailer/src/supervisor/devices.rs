// SPDX-License-Identifier: Apache-2.0
//! The devices of a VM and the processes behind them, in the order of the vmm's launch record:
//! first ours, whose backends are our children (disks, then network cards with a tap), then those of
//! other programs (passt's network cards, then what `--vhost-user` names).

use std::fs::File;
use std::os::fd::OwnedFd;

use launch::disk::Geometry;
use launch::fd::vmm::DEVICES_MAX;
use launch::memfd::MemfdError;
use launch::record::DeviceRecord;
use spec::api::{DeviceInfo, DeviceStats, ProcessInfo};
use spec::{NetKind, VhostUserKind, Vm, VmName};

use super::janitor::AskError;
use super::poll::{Interests, earlier};
use crate::profile;

mod backend;
mod disk;
mod fence;
mod kind;
mod nic;
mod records;
mod rendezvous;
mod restarts;
mod slot;
mod watch;

pub(crate) use kind::Means;
pub(crate) use nic::TapParts;
pub(crate) use rendezvous::connect;
pub(crate) use slot::News;

use disk::Disk;
use kind::BackendError;
use nic::Nic;
use slot::Slot;

const _: () = assert!(DEVICES_MAX == spec::DEVICES_MAX);

/// A device cannot be had for a fresh vmm.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    /// There is no in-flight region.
    #[error("device {0:?}")]
    Inflight(String, #[source] MemfdError),
    /// A descriptor could not be duplicated.
    #[error("device {0:?}: cannot duplicate a file descriptor")]
    Duplicate(String, #[source] std::io::Error),
    /// Its backend could not be started.
    #[error("{0}: its backend")]
    Backend(String, #[source] BackendError),
    /// Another program's backend is not there any more.
    #[error("{0}: cannot connect again")]
    Connect(String, #[source] AskError),
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
    id: String,
    /// What it is in the spec, for errors.
    named: String,
    /// Of a network card, whether its link is up.
    link_up: Option<bool>,
    /// For the first vmm; each later one gets its own.
    stream: Option<OwnedFd>,
}

/// The devices of other programs, in the order of the record, without their streams.
fn foreign(vm: &Vm) -> impl Iterator<Item = Foreign> {
    let cards = vm
        .nets
        .iter()
        .filter(|net| matches!(net.kind, NetKind::User(_)));
    let cards = cards.map(|net| Foreign {
        id: net.id.to_string(),
        named: format!("net.user {:?}", net.id.as_str()),
        link_up: Some(true),
        stream: None,
    });
    cards.chain(vm.vhost_user.iter().map(|device| Foreign {
        id: device.id.to_string(),
        named: format!("vhost-user {:?}", device.socket),
        link_up: (device.kind == VhostUserKind::Net).then_some(true),
        stream: None,
    }))
}

impl Foreign {
    fn connected((device, stream): (Self, OwnedFd)) -> Self {
        Self {
            stream: Some(stream),
            ..device
        }
    }
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
    pub(crate) fn new(
        vm: &Vm,
        name: &VmName,
        images: Vec<Image>,
        taps: Vec<TapParts>,
        streams: Vec<OwnedFd>,
    ) -> Self {
        let disks = (0..).zip(vm.disks.iter().cloned()).zip(images);
        let disks = disks.map(|((index, spec), image)| Slot::new(Disk::new(index, spec, image)));
        let cards = vm.nets.iter().enumerate();
        let cards = cards.filter_map(|(index, net)| match &net.kind {
            NetKind::Tap(tap) => Some((net, tap, profile::net::profile(vm, index, tap))),
            NetKind::User(_) => None,
        });
        let cards = cards.zip(taps).map(|((net, spec, profile), tap)| {
            Slot::new(Nic::new(net, name.as_str(), spec.clone(), tap, profile))
        });
        Self {
            own: disks.chain(cards).collect(),
            foreign: foreign(vm).zip(streams).map(Foreign::connected).collect(),
        }
    }

    /// What the vmm is told of them.
    pub(crate) fn records(&self, vm: &Vm, name: &VmName) -> Vec<DeviceRecord> {
        records::of(vm, name, |id| {
            let own = self.own.iter().find(|slot| slot.id() == id);
            let foreign = self.foreign.iter().find(|device| device.id == id);
            let up = own.and_then(Slot::link_up);
            up.or(foreign.and_then(|device| device.link_up))
                .unwrap_or(true)
        })
    }

    /// Plugs a network card's cable in, or pulls it. Its place in the record, of which the vmm has
    /// to be told; `None` if there is no such device, or it is no network card.
    pub(crate) fn set_link(&mut self, id: &str, up: bool) -> Option<u8> {
        let own = self.own.len();
        if let Some((index, slot)) = self.find(id) {
            return slot.set_link(up).then_some(index);
        }
        let mut foreign = self.foreign.iter_mut().zip(own..);
        let (device, index) = foreign.find(|(device, _)| device.id == id)?;
        *device.link_up.as_mut()? = up;
        u8::try_from(index).ok()
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
                    .map_err(|error| BeginError::Connect(device.named.clone(), error))?,
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
