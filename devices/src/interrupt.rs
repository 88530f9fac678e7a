// SPDX-License-Identifier: Apache-2.0
//! What devices need of the interrupt controllers.

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
    fn watch_level_pins(&self, pins: &[Option<MsiMessage>; PINS]);
}

/// One interrupt line into an interrupt controller.
pub trait InterruptLine: Send + Sync {
    /// Raises and lowers the line: one edge.
    fn pulse(&self);
}
