// SPDX-License-Identifier: Apache-2.0
//! What a vmm begins with: the first guest, another one after a reboot, or the guest of the vmm before.

use super::devices::Start;

/// What a vmm begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    /// The VM's first guest.
    First,
    /// A guest that has rebooted.
    Reboot,
    /// The guest of the vmm before, which goes on.
    Restores,
}

impl Beginning {
    /// That of a start.
    pub(crate) fn of(start: Start) -> Self {
        match start {
            Start { keeps: true, .. } => Self::Restores,
            Start { is_first: true, .. } => Self::First,
            Start { .. } => Self::Reboot,
        }
    }
}
