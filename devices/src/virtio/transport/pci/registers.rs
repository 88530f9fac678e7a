// SPDX-License-Identifier: Apache-2.0
//! The BAR: the registers that a driver accesses at run time.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::bus::{BusDevice, Doorbells};
use crate::interrupt::{CallListener, MsiVectors};
use crate::state::StateError;
use crate::virtio::device::{Activation, ActiveQueue, DriverSignals, QueueIndex, VirtioDevice};
use crate::virtio::eventfd::{self, QueueEvents};
use crate::virtio::features;
use crate::virtio::transport::pci::common_config::{self, CommonConfig, CommonState, Effect};
use crate::virtio::transport::pci::doorbells::QueueDoorbells;
use crate::virtio::transport::pci::intx::{ISR_CONFIG, Intx, IsrLine, WatchedCalls};
use crate::virtio::transport::pci::layout;
use crate::virtio::transport::pci::msix::{Control, Msix, MsixState};

/// The offset of `device_status` in the common configuration.
const DEVICE_STATUS: usize = 20;

/// The part that the device's own thread accesses.
#[derive(Debug)]
struct Shared {
    common: Mutex<CommonConfig>,
    msix: Mutex<Msix>,
    isr: Arc<IsrLine>,
}

impl Shared {
    fn common(&self) -> MutexGuard<'_, CommonConfig> {
        self.common.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn msix(&self) -> MutexGuard<'_, Msix> {
        self.msix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn interrupt_config(&self) {
        // "The device MUST set the Device Configuration Interrupt bit in ISR status before sending a
        // device configuration change notification to the driver" (§4.1.4.5.1)
        self.isr.raise(ISR_CONFIG);
        self.msix().interrupt_config();
    }
}

impl DriverSignals for Shared {
    fn used_buffers(&self, queue: QueueIndex) {
        self.msix().interrupt_queue(queue);
        self.isr.raise_queue();
    }

    fn config_changed(&self) {
        self.common().config_changed();
        self.interrupt_config();
    }

    fn needs_reset(&self) {
        let tell = self.common().needs_reset();
        if tell {
            self.interrupt_config();
        }
    }

    fn retry(&self) {
        self.msix().retry();
    }
}

/// A queue whose call eventfd the vmm waits for.
struct WatchedQueue {
    events: Arc<QueueEvents>,
    /// Not owned: it holds the watcher, which holds this.
    shared: Weak<Shared>,
    index: QueueIndex,
}

impl CallListener for WatchedQueue {
    fn called(&self) {
        if eventfd::drain(&self.events.call)
            && let Some(shared) = self.shared.upgrade()
            // The driver may have turned to messages meanwhile.
            && !shared.isr.raise_queue()
        {
            shared.msix().interrupt_queue(self.index);
        }
    }
}

/// What a device's registers hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RegistersState {
    common: CommonState,
    msix: MsixState,
    isr: u8,
}

/// A device's registers.
pub(super) struct Registers {
    device: Arc<dyn VirtioDevice>,
    queues: Vec<Arc<QueueEvents>>,
    shared: Arc<Shared>,
    doorbells: Mutex<QueueDoorbells>,
    bus_master: AtomicBool,
    watched: Mutex<WatchedCalls>,
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers")
            .field("device", &self.device)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl Registers {
    /// The state after power-on. `queues` has as many elements as the device has queues.
    pub(super) fn new(
        device: Arc<dyn VirtioDevice>,
        queues: Vec<Arc<QueueEvents>>,
        vectors: Arc<dyn MsiVectors>,
        intx: Option<Intx>,
        doorbells: Arc<dyn Doorbells>,
    ) -> Self {
        let count = u16::try_from(super::vector_count(queues.len())).unwrap_or(0);
        let common = CommonConfig::new(device.queue_max_sizes(), count);
        let shared = Shared {
            common: Mutex::new(common),
            msix: Mutex::new(Msix::new(vectors, &queues)),
            isr: Arc::new(IsrLine::new(intx)),
        };
        Self {
            device,
            doorbells: Mutex::new(QueueDoorbells::new(doorbells, &queues)),
            watched: Mutex::new(WatchedCalls::none_of(queues.len())),
            queues,
            shared: Arc::new(shared),
            bus_master: AtomicBool::new(false),
        }
    }

    pub(super) fn save(&self) -> RegistersState {
        let common = self.shared.common();
        RegistersState {
            common: common.save(),
            msix: self.shared.msix().save(),
            isr: self.shared.isr.isr(),
        }
    }

    /// Sets what the registers hold. The device starts, if its driver was ready, when configuration
    /// space is restored and it may access memory.
    pub(super) fn restore(&self, state: &RegistersState) -> Result<(), StateError> {
        let mut common = self.shared.common();
        let mut msix = self.shared.msix();
        msix.check(&state.msix)?;
        *common = common.restored(&state.common, self.offered())?;
        msix.restore(&state.msix);
        msix.map_config(common.config_vector());
        for index in (0..).map(QueueIndex).take(self.queues.len()) {
            msix.map_queue(index, common.queue_vector(index));
        }
        for queue in common.enabled() {
            self.doorbells().enable(queue);
        }
        self.shared.isr.restore(state.isr);
        Ok(())
    }

    fn doorbells(&self) -> MutexGuard<'_, QueueDoorbells> {
        self.doorbells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Called when the BAR moves to `base`, or is disabled.
    pub(super) fn set_base(&self, base: Option<u64>) {
        self.doorbells().set_base(base);
    }

    /// Called when configuration space changes the control of interrupts and memory accesses.
    pub(super) fn set_control(&self, control: Control) {
        self.bus_master.store(control.bus_master, Ordering::SeqCst);
        self.shared.msix().set_control(control);
        let isr = &self.shared.isr;
        isr.set_mode(control.enabled, control.line_disabled);
        let mut common = self.shared.common();
        self.start(&mut common);
        self.watch_calls(&common);
    }

    /// Has the vmm wait for the queues' interrupts while the device runs and its driver takes no
    /// messages.
    fn watch_calls(&self, common: &CommonConfig) {
        let wanted = common.is_started() && self.shared.isr.is_by_line();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = |index: QueueIndex| {
            let queue = WatchedQueue {
                events: Arc::clone(&self.queues[usize::from(index.0)]),
                shared: Arc::downgrade(&self.shared),
                index,
            };
            Arc::new(queue) as Arc<dyn CallListener>
        };
        if let Some(watcher) = self.shared.isr.watcher() {
            watched.set(wanted, watcher, &self.queues, listener);
        }
    }

    /// Whether the function asks for an interrupt, by its line or not.
    pub(super) fn is_interrupting(&self) -> bool {
        self.shared.isr.isr() != 0
    }

    fn offered(&self) -> u64 {
        features::offerable(self.device.features())
    }

    /// Starts the device once the driver is ready and the device may access memory.
    fn start(&self, common: &mut CommonConfig) {
        if !self.bus_master.load(Ordering::SeqCst) {
            return;
        }
        let Some((features, queues)) = common.take_start() else {
            return;
        };
        let active = |(index, layout): (QueueIndex, _)| {
            let events = self.queues.get(usize::from(index.0)).map(Arc::clone)?;
            Some(ActiveQueue {
                index,
                layout,
                events,
            })
        };
        self.device.activate(Activation {
            features,
            queues: queues.into_iter().filter_map(active).collect(),
            signals: Arc::clone(&self.shared) as Arc<dyn DriverSignals>,
        });
    }

    /// If the device has completed a reset, shows that to the driver.
    fn finish_reset(&self, common: &mut CommonConfig) {
        if common.is_resetting() && (!common.is_started() || self.device.reset_done()) {
            common.finish_reset();
            self.shared.msix().unmap_all();
            self.shared.isr.restore(0);
            self.watch_calls(common);
        }
    }

    fn read_common(&self, offset: usize, data: &mut [u8]) {
        let mut common = self.shared.common();
        if (offset..offset.saturating_add(data.len())).contains(&DEVICE_STATUS) {
            self.finish_reset(&mut common);
        }
        copy(&common.image(self.offered()), offset, data);
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut common = self.shared.common();
        match common.write(offset, data, self.offered()) {
            Effect::None => {}
            Effect::Start => {
                self.start(&mut common);
                self.watch_calls(&common);
            }
            Effect::Enabled(queue) => self.doorbells().enable(queue),
            Effect::ConfigVector => self.shared.msix().map_config(common.config_vector()),
            Effect::QueueVector(queue) => {
                let vector = common.queue_vector(queue);
                self.shared.msix().map_queue(queue, vector);
            }
            Effect::Reset => {
                if common.is_started() {
                    self.device.begin_reset();
                }
            }
        }
    }

    fn read_device_config(&self, offset: usize, data: &mut [u8]) {
        self.shared.common().config_read();
        data.fill(0);
        self.device.read_config(offset, data);
    }

    fn read_isr(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        if let (0, Some(first)) = (offset, data.first_mut()) {
            *first = self.shared.isr.take();
        }
    }

    /// Handles a notification that no doorbell took: the doorbell is not registered, or the driver
    /// wrote it through configuration space.
    fn notify(&self, offset: u64) {
        let queue = u16::try_from(offset / u64::from(layout::NOTIFY_MULTIPLIER)).map(QueueIndex);
        let common = self.shared.common();
        if let Ok(queue) = queue
            && usize::from(queue.0) < self.queues.len()
            && common.is_started()
            && !common.is_resetting()
        {
            self.device.notify(queue);
        }
    }
}

/// Reads a part of a structure; bytes beyond it are zero.
fn copy(structure: &[u8], offset: usize, data: &mut [u8]) {
    for (at, byte) in (offset..).zip(data) {
        *byte = structure.get(at).copied().unwrap_or(0);
    }
}

impl BusDevice for Registers {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let within = |base: u64| usize::try_from(offset - base).unwrap_or(usize::MAX);
        match offset {
            layout::MSIX_PBA.. => {
                self.shared
                    .msix()
                    .read_pending(within(layout::MSIX_PBA), data);
            }
            layout::MSIX_TABLE.. => {
                self.shared
                    .msix()
                    .read_table(within(layout::MSIX_TABLE), data);
            }
            layout::NOTIFY.. => data.fill(0),
            layout::DEVICE_CONFIG.. => {
                self.read_device_config(within(layout::DEVICE_CONFIG), data);
            }
            layout::ISR.. => self.read_isr(within(layout::ISR), data),
            _ => self.read_common(within(layout::COMMON), data),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match offset {
            layout::MSIX_PBA.. => {}
            layout::MSIX_TABLE.. => {
                let at = usize::try_from(offset - layout::MSIX_TABLE).unwrap_or(usize::MAX);
                self.shared.msix().write_table(at, data);
            }
            layout::NOTIFY.. => self.notify(offset - layout::NOTIFY),
            layout::DEVICE_CONFIG.. => {
                let at = usize::try_from(offset - layout::DEVICE_CONFIG).unwrap_or(usize::MAX);
                self.device.write_config(at, data);
            }
            layout::ISR.. => {}
            _ if offset < common_config::LEN_BYTES as u64 => self.write_common(offset, data),
            _ => {}
        }
    }
}
