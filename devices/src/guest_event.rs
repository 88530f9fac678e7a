// SPDX-License-Identifier: Apache-2.0
//! What a guest can do to the whole machine.

/// An event that ends the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEvent {
    /// It powered off (ACPI sleep state S5).
    PowerOff,
    /// It requested a reset (ACPI reset register, keyboard controller).
    Reset,
    /// Its kernel panicked and reported it (pvpanic).
    Panic,
}

/// Receives these events; called on vCPU threads, must not block.
pub trait GuestEvents: Send + Sync {
    /// Reports an event. The first one decides how the machine ends.
    fn report(&self, event: GuestEvent);
}
