// SPDX-License-Identifier: Apache-2.0
//! What devices need from the interrupt controllers.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// The number of pins of the IOAPIC.
pub const PINS: usize = 24;

/// A message-signalled interrupt: the address and value that the device writes (PCI local bus 3.0
/// §6.8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address written to.
    pub address: u64,
    /// The value written.
    pub data: u32,
}

/// The machine's interrupt delivery. Called on vCPU threads and the main thread; must not block.
pub trait InterruptFabric: Send + Sync {
    /// Delivers a message.
    fn send(&self, message: MsiMessage);

    /// Sets the message of each IOAPIC pin that is level-triggered (`None` for the others), so that
    /// KVM reports its EOI to [`crate::ioapic::IoApic::eoi`]. After an error the previous messages
    /// may still be in effect.
    fn watch_level_pins(&self, pins: &[Option<MsiMessage>; PINS]) -> io::Result<()>;
}

/// One interrupt line into an interrupt controller.
pub trait InterruptLine: Send + Sync {
    /// Raises and lowers the line: one edge.
    fn pulse(&self);
}

/// The MSI-X vectors of one device: an interrupt route for each, allocated before the device is
/// made. Called on vCPU threads and the device's thread with the device's locks held; must not
/// block and must not call the device.
pub trait MsiVectors: Send + Sync {
    /// From now on a signal on `call` sends `message`, without the vmm. If `call` is readable
    /// already, the message is sent now (and `call` stays readable: the caller drains it). Several
    /// eventfds may be assigned to a vector, all with the same message. After an error `call` is
    /// not assigned.
    fn assign(&self, vector: u16, message: MsiMessage, call: &EventFd) -> io::Result<()>;

    /// Undoes `assign`: when it returns, `call` sends no more messages. After an error `call` is
    /// still assigned.
    fn deassign(&self, vector: u16, call: &EventFd) -> io::Result<()>;
}
