// SPDX-License-Identifier: Apache-2.0
//! The interrupt line of a function (INTx: PCI local bus 3.0 §2.2.6) and the ISR status that tells
//! what it is for (virtio 1.2 §4.1.4.5). A driver uses it that takes no messages.
//!
//! The line is high while the ISR status is not 0, unless MSI-X is enabled or the driver has disabled
//! the line. Then the queues' call eventfds go to the vmm, which sets the ISR status: no irqfd could,
//! since the driver must find the status set when the interrupt comes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::interrupt::{CallListener, CallWatcher, InterruptLine};
use crate::virtio::eventfd::{self, QueueEvents};

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

    /// Sets the bit of queues if their interrupts come by the line.
    pub(super) fn raise_queue(&self) {
        self.change(|state| {
            if !state.by_message {
                state.isr |= ISR_QUEUE;
            }
        });
    }

    /// How interrupts come.
    pub(super) fn set_mode(&self, by_message: bool, disabled: bool) {
        self.change(|state| (state.by_message, state.disabled) = (by_message, disabled));
    }

    /// Whether interrupts come by the line, if there is one.
    pub(super) fn is_by_line(&self) -> bool {
        self.intx.is_some() && !self.lock().by_message
    }
}

/// A queue whose call eventfd the vmm waits for.
struct WatchedQueue {
    events: Arc<QueueEvents>,
    /// Not owned: the line holds the watcher, which holds this.
    line: Weak<IsrLine>,
}

impl CallListener for WatchedQueue {
    fn called(&self) {
        if eventfd::drain(&self.events.call)
            && let Some(line) = self.line.upgrade()
        {
            line.raise_queue();
        }
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

    /// Has the vmm wait for the queues' eventfds, or not. Returns whether it has stopped waiting for
    /// some. What the kernel refused is tried again at the next call.
    pub(super) fn set(
        &mut self,
        wanted: bool,
        queues: &[Arc<QueueEvents>],
        line: &Arc<IsrLine>,
    ) -> bool {
        let Some(intx) = &line.intx else { return false };
        let mut stopped = false;
        for (key, events) in self.0.iter_mut().zip(queues) {
            match (wanted, *key) {
                (false, Some(watched)) => {
                    intx.watcher.unwatch(&events.call, watched);
                    *key = None;
                    stopped = true;
                }
                (true, None) => *key = watch(intx, events, line),
                (true, Some(_)) | (false, None) => {}
            }
        }
        stopped
    }
}

fn watch(intx: &Intx, events: &Arc<QueueEvents>, line: &Arc<IsrLine>) -> Option<u64> {
    let queue = WatchedQueue {
        events: Arc::clone(events),
        line: Arc::downgrade(line),
    };
    let watched = intx.watcher.watch(&events.call, Arc::new(queue));
    watched
        .inspect_err(|error| log::error!("cannot wait for the interrupts of a queue: {error}"))
        .ok()
}
