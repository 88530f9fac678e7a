// SPDX-License-Identifier: Apache-2.0
//! What devices need from the interrupt controllers.

use std::io;

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
