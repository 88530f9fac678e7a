// SPDX-License-Identifier: Apache-2.0
//! The devices of a VM and the processes behind them: first our own, whose backends are our children
//! (disks, then NICs with a tap), then external ones (passt's NICs, then the devices of
//! `--vhost-user`). The spec says which slot each has. A power button of our own is in a slot behind all
//! of them.

use std::os::fd::OwnedFd;

use handover::host_resources::{Image, TapParts};
use ipc::control::DeviceNews;
use ipc::memfd::MemfdError;
use ipc::record::DeviceRecord;
use ipc::slot::DeviceSlot;
use spec::api::{DeviceInfo, DeviceState, DeviceStats, EventKind, ProcessInfo};
use spec::{NetKind, PowerButton, VhostUserKind, Vm, VmName};

use super::poll::{Interests, earlier};
use crate::process::SpawnContext;
use crate::profile;

mod backend;
mod button;
mod complaints;
mod disk;
mod external;
mod fence;
mod kind;
mod managed;
mod nic;
mod records;
mod socket_pair;
mod watchdog;

pub(crate) use managed::{Actions, DeviceAction, UPGRADE_NS};

/// What tests with made-up backends need.
#[cfg(any(test, feature = "testing"))]
pub(crate) mod script {
    pub(crate) use super::fence::PendingIo;
    pub(crate) use super::kind::{BackendError, Kind, Opened, PreparedBackend, SpawnOptions};
    #[cfg(test)]
    pub(crate) use super::managed::UPGRADE_NS;
    pub(crate) use super::managed::{Actions, DeviceAction, ManagedDevice};
    pub(crate) use super::{BeginError, Start};
}

use button::Button;
use disk::Disk;
use external::{External, ExternalDeviceInfo};
use kind::{BackendError, PreparedBackend};
use managed::ManagedDevice;
use nic::Nic;

const _: () = assert!(DeviceSlot::MAX as usize == spec::DEVICES_MAX);

/// A device cannot be provided to a new vmm.
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
    /// An external backend does not listen.
    #[error("{0}: no program listens")]
    Connect(String),
}

/// The start of one vmm.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// The time of the start.
    pub(crate) now_ns: u64,
    /// No guest of the VM has run yet: a device that cannot be provided is an error. Later the
    /// supervisor waits for it.
    pub(crate) is_first: bool,
    /// The vmm takes up the guest of the one before: what drivers have set and what is in flight stays.
    pub(crate) keeps: bool,
}

/// What a vmm gets for a device.
#[derive(Debug)]
pub(crate) struct Link {
    /// The stream to the backend.
    pub(crate) stream: OwnedFd,
    /// The in-flight region that the backends share.
    pub(crate) inflight: Option<OwnedFd>,
}

/// The external devices, in the order in which the jailer has connected to them.
fn external_devices(vm: &Vm) -> impl Iterator<Item = (DeviceSlot, ExternalDeviceInfo)> {
    let cards = vm
        .nets
        .iter()
        .filter(|net| matches!(net.kind, NetKind::User(_)));
    let cards = cards.map(|net| {
        let info = ExternalDeviceInfo {
            id: net.id.to_string(),
            named: format!("net.user {:?}", net.id.as_str()),
            link_up: Some(true),
            tracked: None,
        };
        (net.slot, info)
    });
    cards.chain(vm.vhost_user.iter().map(|device| {
        let is_tracked = external::is_tracked(&device.kind);
        let info = ExternalDeviceInfo {
            id: device.id.to_string(),
            named: format!("vhost-user {:?}", device.socket),
            link_up: (device.kind == VhostUserKind::Net).then_some(true),
            tracked: is_tracked.then_some((device.queues, device.queue_size)),
        };
        (device.slot, info)
    }))
}

/// What a vmm gets for its devices.
pub(crate) type Links = Vec<(DeviceSlot, Link)>;

/// What each device asks for.
pub(crate) type AllActions = Vec<(DeviceSlot, Actions)>;

/// All devices of a VM.
#[derive(Debug)]
pub(crate) struct Devices {
    /// Devices whose backends are our children.
    own: Vec<(DeviceSlot, ManagedDevice)>,
    external: Vec<(DeviceSlot, External)>,
}

impl Devices {
    /// Takes what the jailer opened, in the order of the spec.
    pub(crate) fn new(
        vm: &Vm,
        name: &VmName,
        images: Vec<Image>,
        taps: Vec<TapParts>,
        streams: Vec<OwnedFd>,
    ) -> Self {
        let disks = (0..).zip(vm.disks.iter().cloned()).zip(images);
        let disks = disks.map(|((index, spec), image)| {
            let slot = spec.slot;
            (slot, ManagedDevice::new(Disk::new(vm, index, spec, image)))
        });
        let cards = vm.nets.iter().enumerate();
        let cards = cards.filter_map(|(index, net)| match &net.kind {
            NetKind::Tap(tap) => Some((net, tap, profile::of_nic(vm, index, tap))),
            NetKind::User(_) => None,
        });
        let cards = cards.zip(taps).map(|((net, spec, profile), tap)| {
            let nic = Nic::new(net, name.as_str(), spec.clone(), tap, profile);
            (net.slot, ManagedDevice::new(nic))
        });
        let mut own: Vec<_> = disks.chain(cards).collect();
        let external = (0..).zip(external_devices(vm).zip(streams));
        let external = external
            .map(|(index, ((slot, info), stream))| (slot, External::new(index, info, stream)));
        let external = external.collect();
        if vm.power_button == PowerButton::Virtio {
            let button = Button::new(profile::of_button(vm));
            own.push((DeviceSlot::POWER_BUTTON, ManagedDevice::new(button)));
        }
        Self { own, external }
    }

    /// The records of the devices, for the vmm.
    pub(crate) fn records(&self, vm: &Vm, name: &VmName) -> Vec<DeviceRecord> {
        records::of(vm, name, |id| {
            let own = self.own.iter().find(|(_, device)| device.id() == id);
            let external = self.external.iter().find(|(_, device)| device.id() == id);
            let up = own.and_then(|(_, device)| device.link_up());
            up.or(external.and_then(|(_, device)| device.link_up()))
                .unwrap_or(true)
        })
    }

    /// Plugs a NIC's cable in, or pulls it; returns its slot, for a message to the vmm. `None` if
    /// there is no such device, or it is no NIC.
    pub(crate) fn set_link(&mut self, id: &str, up: bool) -> Option<DeviceSlot> {
        if let Some((slot, device)) = self.find(id) {
            return device.set_link(up).then_some(slot);
        }
        let mut external = self.external.iter_mut();
        let (slot, device) = external.find(|(_, device)| device.id() == id)?;
        device.set_link(up).then_some(*slot)
    }

    /// Why no other vmm can have the devices, if that is so.
    pub(crate) fn cannot_be_handed_over(&self) -> Option<String> {
        let (_, device) = self.external.first()?;
        let id = device.id();
        Some(format!(
            "another program serves device {id:?}, and cannot be handed to another vmm"
        ))
    }

    /// Why another vmm cannot have the devices now, if that is so.
    pub(crate) fn cannot_be_kept(&self) -> Option<String> {
        let mut own = self.own.iter();
        let (_, device) = own.find(|(_, device)| !device.is_steady())?;
        let id = device.id();
        Some(format!(
            "device {id:?} is not served at the moment, or gets another backend"
        ))
    }

    /// Whether the storage still opens what a device's next backend needs.
    pub(crate) fn any_is_opening(&self) -> bool {
        let mut infos = self.infos().into_iter();
        infos.any(|device| device.state == DeviceState::Opening)
    }

    /// Presses a power button of our own, if there is one.
    pub(crate) fn press_button(&mut self) {
        if let Some(button) = self.managed(DeviceSlot::POWER_BUTTON) {
            button.press();
        }
    }

    /// Why the guest does not notice a power button of our own now, if that is known.
    pub(crate) fn button_trouble(&mut self) -> Option<&'static str> {
        self.managed(DeviceSlot::POWER_BUTTON)?.deafness()
    }

    /// Prepares a backend for each device of a new vmm; returns what the vmm gets for them. A
    /// device has `None` if its backend cannot be prepared yet.
    pub(crate) fn prepare(
        &mut self,
        context: &SpawnContext,
        start: Start,
        all: &mut AllActions,
    ) -> Result<(Vec<Option<PreparedBackend>>, Links), BeginError> {
        let mut prepared = Vec::with_capacity(self.own.len());
        let mut links = Vec::with_capacity(self.own.len() + self.external.len());
        for (slot, device) in &mut self.own {
            let mut actions = Actions::default();
            let outcome = device.prepare(context, start, &mut actions);
            all.push((*slot, actions));
            let (backend, link) = outcome?;
            prepared.push(backend);
            links.push((*slot, link));
        }
        for (slot, device) in &mut self.external {
            links.push((*slot, device.begin()?));
        }
        Ok((prepared, links))
    }

    /// Starts the backends that were prepared.
    pub(crate) fn begin(
        &mut self,
        context: &SpawnContext,
        prepared: Vec<Option<PreparedBackend>>,
        start: Start,
        all: &mut AllActions,
    ) -> Result<(), BeginError> {
        for ((slot, device), prepared) in self.own.iter_mut().zip(prepared) {
            if let Some(prepared) = prepared {
                let mut actions = Actions::default();
                let outcome = device.begin(context, prepared, start, &mut actions);
                all.push((*slot, actions));
                outcome?;
            }
        }
        Ok(())
    }

    /// The vmm still builds its machine: its time to connect to backends starts anew.
    pub(crate) fn postpone(&mut self, now_ns: u64) {
        let own = self.own.iter_mut();
        own.for_each(|(_, device)| device.postpone(now_ns));
    }

    /// Registers the backends that were started since.
    pub(crate) fn register(&mut self, context: &SpawnContext) -> AllActions {
        let own = self.own.iter_mut();
        own.map(|(slot, device)| (*slot, device.register(context)))
            .collect()
    }

    /// Kills all backends for good.
    pub(crate) fn retire(&mut self, now_ns: u64) -> AllActions {
        let external = self.external.iter_mut();
        external.for_each(|(_, device)| device.retire(now_ns));
        let own = self.own.iter_mut();
        own.map(|(slot, device)| (*slot, device.retire())).collect()
    }

    /// Handles the vmm's message about a device.
    pub(crate) fn hear(&mut self, slot: DeviceSlot, news: &DeviceNews, now_ns: u64) -> Actions {
        let mut actions = Actions::default();
        match news {
            DeviceNews::Guest(why) => actions.note(EventKind::GuestFault, why),
            DeviceNews::Failed(why) => actions.note(EventKind::Stalled, why),
            news => {
                if let Some(device) = self.managed(slot) {
                    return device.hear(news, now_ns);
                }
                if let Some(device) = self.external(slot) {
                    return device.hear(news, now_ns);
                }
            }
        }
        actions
    }

    /// Whether a new vmm may follow: none of our backends runs or has I/O in flight, what the next
    /// ones need is open, and all external backends are connected.
    pub(crate) fn are_ready(&self) -> bool {
        let (mut own, mut external) = (self.own.iter(), self.external.iter());
        own.all(|(_, device)| device.is_ready()) && external.all(|(_, device)| device.is_ready())
    }

    /// The device in a slot, if it is one of our own.
    pub(crate) fn managed(&mut self, slot: DeviceSlot) -> Option<&mut ManagedDevice> {
        let mut own = self.own.iter_mut();
        own.find_map(|(its, device)| (*its == slot).then_some(device))
    }

    /// The device in a slot, if it is external.
    fn external(&mut self, slot: DeviceSlot) -> Option<&mut External> {
        let mut external = self.external.iter_mut();
        external.find_map(|(its, device)| (*its == slot).then_some(device))
    }

    /// The name of the device in a slot.
    pub(crate) fn id(&mut self, slot: DeviceSlot) -> Option<String> {
        if let Some(device) = self.managed(slot) {
            return Some(device.id().to_owned());
        }
        self.external(slot).map(|device| device.id().to_owned())
    }

    /// Adds the descriptors that the devices wait for.
    pub(crate) fn interests<'a>(&'a self, interests: &mut Interests<'a>) {
        for (slot, device) in &self.own {
            device.interests(*slot, interests);
        }
    }

    /// When [`Self::tick`] must be called at the latest.
    pub(crate) fn deadline_ns(&self) -> Option<u64> {
        let own = self.own.iter().map(|(_, device)| device.deadline_ns());
        let external = self.external.iter();
        let external = external.map(|(_, device)| device.deadline_ns());
        own.chain(external).fold(None, earlier)
    }

    /// The guest is paused: no backend counts as hung for now.
    pub(crate) fn rest(&mut self, now_ns: u64) {
        for (_, device) in &mut self.own {
            device.rest(now_ns);
        }
    }

    /// Handles the deadlines of all devices.
    pub(crate) fn tick(&mut self, context: &SpawnContext, now_ns: u64) -> AllActions {
        let own = self.own.iter_mut();
        let own = own.map(|(slot, device)| (*slot, device.tick(context, now_ns)));
        let external = self.external.iter_mut();
        let external = external.map(|(slot, device)| (*slot, device.tick(&context.jailer, now_ns)));
        own.chain(external).collect()
    }

    /// The device of this name, and its slot: `None` if there is none, or it is external.
    pub(crate) fn find(&mut self, id: &str) -> Option<(DeviceSlot, &mut ManagedDevice)> {
        let mut own = self.own.iter_mut();
        let (slot, device) = own.find(|(_, device)| device.id() == id)?;
        Some((*slot, device))
    }

    /// For `inspect`: the processes.
    pub(crate) fn processes(&self) -> Vec<ProcessInfo> {
        let own = self.own.iter();
        own.filter_map(|(_, device)| device.process()).collect()
    }

    /// For `stats`.
    pub(crate) fn stats(&self, now_ns: u64) -> Vec<DeviceStats> {
        let own = self.own.iter();
        own.filter_map(|(_, device)| device.stats(now_ns)).collect()
    }

    /// For `inspect`: the devices.
    pub(crate) fn infos(&self) -> Vec<DeviceInfo> {
        let own = self.own.iter().map(|(slot, device)| (slot, device.info()));
        let external = self.external.iter();
        let external = external.map(|(slot, device)| (slot, device.info()));
        let mut all: Vec<_> = own.chain(external).collect();
        all.sort_by_key(|(slot, _)| **slot);
        all.into_iter().map(|(_, info)| info).collect()
    }
}
