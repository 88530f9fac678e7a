// SPDX-License-Identifier: Apache-2.0
//! What devices need from the interrupt controllers.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

/// A message-signalled interrupt: the address and value that the device writes (PCI local bus 3.0
/// §6.8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address written to.
    pub address: u64,
    /// The value written.
    pub data: u32,
}

/// One interrupt line into an interrupt controller, driven by one device. Called with the device's
/// locks held; must not block and must not call the device.
pub trait InterruptLine: Send + Sync {
    /// Sets the level of the line. A device calls it when the level changes, and only then.
    fn set(&self, high: bool);

    /// Raises and lowers the line: one edge.
    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// A line that several devices drive: high while one of them holds it high.
pub struct SharedLine {
    line: Arc<dyn InterruptLine>,
    held: Mutex<u32>,
}

impl std::fmt::Debug for SharedLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedLine")
            .field("held", &self.held)
            .finish_non_exhaustive()
    }
}

impl SharedLine {
    /// A line that no device holds.
    pub fn new(line: Arc<dyn InterruptLine>) -> Self {
        Self {
            line,
            held: Mutex::new(0),
        }
    }
}

impl InterruptLine for SharedLine {
    fn set(&self, high: bool) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *held;
        *held = match high {
            true => before.saturating_add(1),
            false => before.saturating_sub(1),
        };
        if (before > 0) != (*held > 0) {
            self.line.set(high);
        }
    }
}

/// Waits for the call eventfds of queues in the vmm's stead, while their device's driver uses its
/// interrupt line instead of messages. Called on vCPU threads with the device's locks held; must not
/// block and must not call the device.
pub trait CallWatcher: Send + Sync {
    /// From now on `listener` is called, on a thread of the watcher, while `call` is readable. Returns
    /// a key for [`Self::unwatch`].
    fn watch(&self, call: &EventFd, listener: Arc<dyn CallListener>) -> io::Result<u64>;

    /// Undoes `watch`. The listener may be called once more by a thread that has begun already.
    fn unwatch(&self, call: &EventFd, key: u64);
}

/// Is told that its call eventfd is readable.
pub trait CallListener: Send + Sync {
    /// Drains the eventfd, and interrupts if it was readable.
    fn called(&self);
}

/// The message-signalled interrupts of one device, which its requester id identifies to interrupt
/// controllers that translate messages. Called on vCPU threads and the device's thread with the
/// device's locks held; must not block and must not call the device.
pub trait MsiVectors: Send + Sync {
    /// Delivers a message of the device, from the vmm.
    fn send(&self, message: MsiMessage);

    /// From now on a signal on `call` sends `message`, without the vmm. If `call` is readable
    /// already, the message is sent now (and `call` stays readable: the caller drains it). Several
    /// eventfds may be assigned to a vector, all with the same message. After an error `call` is
    /// not assigned.
    fn assign(&self, vector: u16, message: MsiMessage, call: &EventFd) -> io::Result<()>;

    /// Undoes `assign`: when it returns, `call` sends no more messages. After an error `call` is
    /// still assigned.
    fn deassign(&self, vector: u16, call: &EventFd) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Levels(Mutex<Vec<bool>>);
    impl InterruptLine for Levels {
        fn set(&self, high: bool) {
            self.0.lock().unwrap().push(high);
        }
    }

    #[test]
    fn shared_line_is_high_while_a_device_holds_it() {
        let levels = Arc::<Levels>::default();
        let line = SharedLine::new(levels.clone());
        for high in [true, true, false, false, true, false] {
            line.set(high);
        }
        assert_eq!(*levels.0.lock().unwrap(), [true, false, true, false]);
    }
}
