// SPDX-License-Identifier: Apache-2.0
//! What a guest can do to the machine as a whole.

/// Something the guest asked for, or that befell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEvent {
    /// It powered off (ACPI sleep state S5).
    PowerOff,
    /// It asked for a reset (ACPI reset register, keyboard controller).
    Reset,
    /// Its kernel panicked and said so (pvpanic).
    Panic,
}

/// Where devices report them; called on vCPU threads, must not wait.
pub trait GuestEvents: Send + Sync {
    /// Reports one. The first one reported decides how the machine ends.
    fn report(&self, event: GuestEvent);
}
