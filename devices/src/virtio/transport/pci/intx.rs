// SPDX-License-Identifier: Apache-2.0
//! The interrupt line of a function (INTx: PCI local bus 3.0 §2.2.6) and the ISR status that tells
//! what it is for (virtio 1.2 §4.1.4.5). A driver uses it that takes no messages.
//!
//! The line is high while the ISR status is not 0, unless MSI-X is enabled or the driver has disabled
//! the line. Then the queues' call eventfds go to the vmm, which sets the ISR status: no irqfd could,
//! since the driver must find the status set when the interrupt comes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::interrupt::{CallListener, CallWatcher, InterruptLine};
use crate::virtio::device::QueueIndex;
use crate::virtio::eventfd::QueueEvents;

/// ISR status: "Queue Interrupt".
pub(super) const ISR_QUEUE: u8 = 1;
/// ISR status: "Device Configuration Interrupt".
pub(super) const ISR_CONFIG: u8 = 2;

/// What a function needs of the machine to have an interrupt line.
#[derive(Clone)]
pub struct Intx {
    /// The line.
    pub line: Arc<dyn InterruptLine>,
    /// Waits for the queues.
    pub watcher: Arc<dyn CallWatcher>,
}

impl fmt::Debug for Intx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intx").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    isr: u8,
    /// MSI-X is enabled: no interrupt comes by the line.
    by_message: bool,
    /// The driver has disabled the line.
    disabled: bool,
    raised: bool,
}

impl State {
    fn level(&self) -> bool {
        self.isr != 0 && !self.by_message && !self.disabled
    }
}

/// The ISR status and the line.
pub(super) struct IsrLine {
    intx: Option<Intx>,
    state: Mutex<State>,
}

impl fmt::Debug for IsrLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IsrLine")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl IsrLine {
    pub(super) fn new(intx: Option<Intx>) -> Self {
        Self {
            intx,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then drives the line.
    fn change<R>(&self, what: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = what(&mut state);
        let level = state.level();
        if let Some(intx) = &self.intx
            && level != state.raised
        {
            state.raised = level;
            intx.line.set(level);
        }
        result
    }

    /// The ISR status.
    pub(super) fn isr(&self) -> u8 {
        self.lock().isr
    }

    /// Sets the ISR status.
    pub(super) fn restore(&self, isr: u8) {
        self.change(|state| state.isr = isr & (ISR_QUEUE | ISR_CONFIG));
    }

    /// A driver's read: "The device MUST reset ISR status to 0 on driver read" (§4.1.4.5.1), which
    /// lowers the line.
    pub(super) fn take(&self) -> u8 {
        self.change(|state| std::mem::take(&mut state.isr))
    }

    /// Sets bits of the ISR status.
    pub(super) fn raise(&self, bits: u8) {
        self.change(|state| state.isr |= bits);
    }

    /// Sets the bit of queues if their interrupts come by the line; returns whether they do.
    pub(super) fn raise_queue(&self) -> bool {
        self.change(|state| {
            if !state.by_message {
                state.isr |= ISR_QUEUE;
            }
            !state.by_message
        })
    }

    /// How interrupts come.
    pub(super) fn set_mode(&self, by_message: bool, disabled: bool) {
        self.change(|state| (state.by_message, state.disabled) = (by_message, disabled));
    }

    /// Whether interrupts come by the line.
    pub(super) fn is_by_line(&self) -> bool {
        !self.lock().by_message
    }

    /// What waits for the queues, if there is a line.
    pub(super) fn watcher(&self) -> Option<&dyn CallWatcher> {
        self.intx.as_ref().map(|intx| &*intx.watcher)
    }
}

/// The call eventfds that the vmm waits for: the key of each queue's.
#[derive(Debug)]
pub(super) struct WatchedCalls(Vec<Option<u64>>);

impl WatchedCalls {
    /// None of so many queues.
    pub(super) fn none_of(queues: usize) -> Self {
        Self(vec![None; queues])
    }

    /// Has `watcher` wait for the queues' eventfds and call their listeners, or not. What the kernel
    /// refused is tried again at the next call.
    pub(super) fn set(
        &mut self,
        wanted: bool,
        watcher: &dyn CallWatcher,
        queues: &[Arc<QueueEvents>],
        listener: impl Fn(QueueIndex) -> Arc<dyn CallListener>,
    ) {
        let indices = (0..).map(QueueIndex);
        for ((key, events), index) in self.0.iter_mut().zip(queues).zip(indices) {
            match (wanted, *key) {
                (false, Some(watched)) => {
                    watcher.unwatch(&events.call, watched);
                    *key = None;
                }
                (true, None) => match watcher.watch(&events.call, listener(index)) {
                    Ok(watched) => *key = Some(watched),
                    Err(e) => log::error!("cannot wait for the interrupts of queue {index}: {e}"),
                },
                (true, Some(_)) | (false, None) => {}
            }
        }
    }
}
