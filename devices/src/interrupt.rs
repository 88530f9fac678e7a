// SPDX-License-Identifier: Apache-2.0
//! What devices need of the interrupt controllers.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// The pins of the IOAPIC.
pub const PINS: usize = 24;

/// A message-signalled interrupt: what the device writes, and where (PCI local bus 3.0 §6.8).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// The address written to.
    pub address: u64,
    /// The value written.
    pub data: u32,
}

/// The machine's interrupt fabric. Called on vCPU threads and the main thread; must not wait.
pub trait InterruptFabric: Send + Sync {
    /// Delivers a message now.
    fn send(&self, message: MsiMessage);

    /// Tells which message each IOAPIC pin with a level-triggered interrupt sends (the others are
    /// `None`), so that the end of such an interrupt is reported to [`crate::ioapic::IoApic::eoi`].
    /// After an error what was told before may still hold.
    fn watch_level_pins(&self, pins: &[Option<MsiMessage>; PINS]) -> io::Result<()>;
}

/// One interrupt line into an interrupt controller.
pub trait InterruptLine: Send + Sync {
    /// Raises and lowers the line: one edge.
    fn pulse(&self);
}

/// The message-signalled interrupts of one device: a route into the interrupt controllers for each
/// of its MSI-X vectors, allocated before the device is made. Called on vCPU threads and the
/// device's thread, with the device's locks held; must not wait and must not call the device.
pub trait MsiVectors: Send + Sync {
    /// From now on `call` becoming readable sends `message`, without this process running; if it is
    /// readable already, the message is sent now (and `call` stays readable: it is the caller that
    /// drains it). Several eventfds may be assigned to a vector, all with the same message. After an
    /// error `call` is not assigned.
    fn assign(&self, vector: u16, message: MsiMessage, call: &EventFd) -> io::Result<()>;

    /// Ends what `assign` began; when it returns, `call` sends nothing any more. After an error `call`
    /// is still assigned.
    fn deassign(&self, vector: u16, call: &EventFd) -> io::Result<()>;
}
