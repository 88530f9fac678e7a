// SPDX-License-Identifier: Apache-2.0
//! The device as the transport and the rest of the vmm use it. Nothing here waits for a backend.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;

use crate::state::{StateError, check_count};
use crate::virtio::device::{Activation, DeviceType, QueueIndex, VirtioDevice};
use crate::virtio::eventfd::{self, QueueEvents};
use crate::virtio::features;
use crate::virtio::vhost_user::command_slot::CommandSlot;
use crate::virtio::vhost_user::events::DeviceEvents;
use crate::virtio::vhost_user::inflight::InflightRegion;
use crate::virtio::vhost_user::memory::{MemoryError, SharedMemory};
use crate::virtio::vhost_user::reconnect::Advertised;
use crate::virtio::vhost_user::spec::{ConfigSource, DeviceSpec, Origin};
use crate::virtio::vhost_user::worker::Worker;
use crate::virtio::vhost_user::{button, nic};

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Guest memory cannot be shared with its backend.
    #[error("cannot share guest memory")]
    Memory(#[source] MemoryError),
    /// The eventfd of its command slot cannot be made.
    #[error("cannot make an eventfd")]
    EventFd(#[source] io::Error),
}

/// What a driver has been shown of a device, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    features: u64,
    config: Vec<u8>,
    link_up: bool,
    selected: [u8; 2],
    failed: bool,
}

/// Where the device's thread stands.
#[derive(Debug, Default)]
struct Standing {
    /// What the driver has been offered, if anything.
    shown: Option<Advertised>,
    /// A backend was found fit.
    has_backend: bool,
    /// The queues are held, and no backend uses them.
    is_held: bool,
}

/// What the device's thread shares with the other threads.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) spec: DeviceSpec,
    pub(super) commands: CommandSlot,
    resetting: AtomicBool,
    /// A network card's link is up.
    link_up: AtomicBool,
    /// What the driver asks of a power button's configuration space.
    selected: button::Selected,
    /// The device has set DEVICE_NEEDS_RESET.
    pub(super) failed: AtomicBool,
    standing: Mutex<Standing>,
    changed: Condvar,
    queues: Mutex<Vec<Arc<QueueEvents>>>,
}

impl Shared {
    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `reached` holds; false on timeout.
    fn wait_until(&self, timeout: Duration, reached: impl Fn(&Standing) -> bool) -> bool {
        let standing = self.standing();
        let wait = self
            .changed
            .wait_timeout_while(standing, timeout, |standing| !reached(standing));
        let (standing, _) = wait.unwrap_or_else(PoisonError::into_inner);
        reached(&standing)
    }

    /// A backend was found fit.
    pub(super) fn connected(&self) {
        self.standing().has_backend = true;
        self.changed.notify_all();
    }

    /// Whether the queues are held, and no backend uses them.
    pub(super) fn set_held(&self, is_held: bool) {
        self.standing().is_held = is_held;
        self.changed.notify_all();
    }

    /// What the driver has been offered, if anything.
    pub(super) fn shown(&self) -> Option<Advertised> {
        self.standing().shown.clone()
    }

    /// Sets what the driver is offered. Only while it cannot have read anything else since its last
    /// reset.
    pub(super) fn show(&self, advertised: Advertised) {
        self.standing().shown = Some(advertised);
    }

    /// Shows the driver that the reset is complete.
    pub(super) fn finish_reset(&self) {
        self.resetting.store(false, Ordering::SeqCst);
    }
}

/// A device that a backend process implements.
pub struct VhostUserDevice(Arc<Shared>);

impl fmt::Debug for VhostUserDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostUserDevice")
            .field("spec", &self.0.spec)
            .finish_non_exhaustive()
    }
}

impl VhostUserDevice {
    /// Makes a device and the worker to run on its thread. `inflight` is the in-flight region of
    /// its backends, if they have one.
    pub fn new(
        spec: DeviceSpec,
        memory: GuestMemoryMmap<()>,
        inflight: Option<InflightRegion>,
        events: Arc<dyn DeviceEvents>,
    ) -> Result<(Self, Worker), DeviceError> {
        let memory = SharedMemory::new(memory).map_err(DeviceError::Memory)?;
        let shared = Arc::new(Shared {
            spec,
            commands: CommandSlot::new().map_err(DeviceError::EventFd)?,
            resetting: AtomicBool::new(false),
            link_up: AtomicBool::new(true),
            selected: button::Selected::default(),
            failed: AtomicBool::new(false),
            standing: Mutex::default(),
            changed: Condvar::new(),
            queues: Mutex::default(),
        });
        let worker = Worker::new(Arc::clone(&shared), memory, inflight, events);
        Ok((Self(shared), worker))
    }

    /// Attaches a new backend, or the first: a stream connected to it. The previous backend must be
    /// killed and reaped, and its I/O fenced.
    ///
    /// If the device's thread has not taken an earlier stream yet, that one is closed here, so the
    /// caller's seccomp filter must allow close(2); likewise in [`Self::probe`].
    pub fn attach(&self, stream: OwnedFd) {
        self.release();
        drop(
            self.0
                .commands
                .post(|pending| pending.stream.replace(stream)),
        );
    }

    /// The backend is gone, its I/O is fenced, and there is no other one yet. A driver's reset can
    /// then complete.
    pub fn fenced(&self) {
        self.release();
        self.0.commands.post(|pending| pending.fenced = true);
    }

    /// Stops the queues in order to replace the backend; [`super::events::DeviceEvent::Drained`]
    /// reports when they have stopped. Then call either `attach` or `resume`; both run the queues
    /// again.
    pub fn drain(&self) {
        self.0.commands.post(|pending| pending.drain = Some(true));
    }

    /// Runs the queues again on the connected backend.
    pub fn resume(&self) {
        self.0.commands.post(|pending| pending.drain = Some(false));
    }

    /// Checks whether a backend can become the next one; [`super::events::DeviceEvent::Compatible`]
    /// or `Incompatible` reports the result. The current backend keeps serving.
    pub fn probe(&self, stream: OwnedFd) {
        drop(
            self.0
                .commands
                .post(|pending| pending.probe.replace(stream)),
        );
    }

    /// Uses the checked backend, as [`Self::attach`] does with a new one.
    pub fn switch(&self) {
        self.release();
        self.0.commands.post(|pending| pending.switch = true);
    }

    /// Sets a network card's link up or down; the driver sees it in the device's status
    /// (VIRTIO_NET_F_STATUS), with any backend.
    pub fn set_link(&self, up: bool) {
        if self.0.link_up.swap(up, Ordering::SeqCst) != up {
            self.0
                .commands
                .post(|pending| pending.config_changed = true);
        }
    }

    /// Waits until a backend has connected, so that the driver finds features. Call it before the
    /// guest runs.
    pub fn wait_until_connected(&self, timeout: Duration) -> bool {
        self.0.wait_until(timeout, |standing| standing.has_backend)
    }

    /// Stops the queues, and keeps them stopped whatever backend is attached, until [`Self::release_queues`].
    pub fn hold_queues(&self) {
        self.0.set_held(false);
        self.0.commands.post(|pending| pending.hold = Some(true));
    }

    /// Waits until no backend uses the queues that are held; false on timeout.
    pub fn wait_until_held(&self, timeout: Duration) -> bool {
        self.0.wait_until(timeout, |standing| standing.is_held)
    }

    /// Lets the queues run again.
    pub fn release_queues(&self) {
        self.0.commands.post(|pending| pending.hold = Some(false));
    }

    /// What the driver has been shown, while the queues are held; `None` before the first backend.
    pub fn save(&self) -> Option<DeviceState> {
        let shown = self.0.shown()?;
        Some(DeviceState {
            features: shown.features,
            config: shown.config,
            link_up: self.0.link_up.load(Ordering::SeqCst),
            selected: self.0.selected.save(),
            failed: self.0.failed.load(Ordering::SeqCst),
        })
    }

    /// Makes a device that has no backend yet show its driver the same, and holds its queues. The backend
    /// that is attached must fit that.
    pub fn restore(&self, state: &DeviceState) -> Result<(), StateError> {
        // A configuration that the vmm itself provides is not part of it.
        let len = self.config_len_bytes().min(state.config.len());
        check_count("bytes of configuration", state.config.len(), len)?;
        self.0.show(Advertised {
            features: features::offerable(state.features),
            config: state.config.clone(),
        });
        self.0.link_up.store(state.link_up, Ordering::SeqCst);
        self.0.selected.restore(state.selected);
        self.0.failed.store(state.failed, Ordering::SeqCst);
        self.hold_queues();
        Ok(())
    }

    /// Unblocks a write to a kick eventfd that a backend has made blocking. Call it only before the
    /// device's thread hears of the next backend, or while the queues are being reset: draining
    /// would lose kicks of a running queue.
    fn release(&self) {
        let queues = self.0.queues.lock().unwrap_or_else(PoisonError::into_inner);
        for events in queues.iter() {
            eventfd::drain(&events.kick);
        }
    }
}

impl Drop for VhostUserDevice {
    /// Ends the device's thread.
    fn drop(&mut self) {
        self.0.commands.post(|pending| pending.quit = true);
    }
}

impl VirtioDevice for VhostUserDevice {
    fn device_type(&self) -> DeviceType {
        self.0.spec.device_type
    }

    fn features(&self) -> u64 {
        let standing = self.0.standing();
        standing.shown.as_ref().map_or(0, |shown| shown.features)
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.0.spec.queue_max_sizes
    }

    fn config_len_bytes(&self) -> usize {
        self.0.spec.config.len_bytes()
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        if self.0.spec.config == ConfigSource::PowerButton {
            return self.0.selected.read(offset, data);
        }
        let standing = self.0.standing();
        let config = standing
            .shown
            .as_ref()
            .map_or(&[][..], |advertised| &advertised.config);
        for (at, byte) in (offset..).zip(data) {
            *byte = config.get(at).copied().unwrap_or(0);
            if matches!(self.0.spec.config, ConfigSource::Nic { .. }) {
                *byte |= nic::link_bits(at, self.0.link_up.load(Ordering::SeqCst));
            }
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        if self.0.spec.config == ConfigSource::PowerButton {
            self.0.selected.write(offset, data);
        }
    }

    fn activate(&self, activation: Activation) {
        let events = activation.queues.iter().map(|q| Arc::clone(&q.events));
        *self.0.queues.lock().unwrap_or_else(PoisonError::into_inner) = events.collect();
        self.0
            .commands
            .post(|pending| pending.activation = Some(activation));
    }

    fn notify(&self, queue: QueueIndex) {
        self.0.commands.post(|pending| {
            pending.notified.insert(queue);
        });
    }

    fn begin_reset(&self) {
        self.0.resetting.store(true, Ordering::SeqCst);
        self.0.commands.post(|pending| pending.reset = true);
    }

    fn reset_done(&self) -> bool {
        let done = !self.0.resetting.load(Ordering::SeqCst);
        if !done && self.0.spec.origin == Origin::Foreign {
            // An external backend may block the device's thread again: release it at each poll of
            // the driver.
            self.release();
        }
        done
    }
}
