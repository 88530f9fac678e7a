// SPDX-License-Identifier: Apache-2.0
//! How jailer, supervisor and vmm name a virtio device of a VM.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number that is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no device slot: they are 1 to {max}", max = DeviceSlot::POWER_BUTTON.0)]
pub struct NoSuchSlot(u8);

/// The place of a virtio device in its VM: its PCI device number, 1 to [`Self::MAX`], or
/// [`Self::POWER_BUTTON`]. Messages and
/// inherited descriptors name a device by it, and it stays the same while other devices come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct DeviceSlot(u8);

impl DeviceSlot {
    /// The highest slot of a device that a user asks for, so the most of them.
    pub const MAX: u8 = 24;

    /// The slot of a power button that is a virtio device.
    pub const POWER_BUTTON: Self = Self(Self::MAX + 1);

    /// The first slot.
    pub const FIRST: Self = Self(1);

    /// Slot `number`, if there is one.
    pub fn new(number: u8) -> Option<Self> {
        (1..=Self::POWER_BUTTON.0)
            .contains(&number)
            .then_some(Self(number))
    }

    /// All slots of devices that a user asks for, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=Self::MAX).map(Self)
    }

    /// The PCI device number.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for DeviceSlot {
    type Error = NoSuchSlot;

    fn try_from(number: u8) -> Result<Self, NoSuchSlot> {
        Self::new(number).ok_or(NoSuchSlot(number))
    }
}

impl From<DeviceSlot> for u8 {
    fn from(slot: DeviceSlot) -> Self {
        slot.0
    }
}

impl fmt::Display for DeviceSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_that_have_descriptors() {
        assert_eq!(DeviceSlot::all().count(), usize::from(DeviceSlot::MAX));
        assert!(DeviceSlot::all().all(|slot| DeviceSlot::new(slot.number()) == Some(slot)));
        assert_eq!((DeviceSlot::new(0), DeviceSlot::new(26)), (None, None));
    }
}
