// SPDX-License-Identifier: Apache-2.0
//! What can happen in a world.

use ipc::control::{FromBackend, FromVmm};

/// Something that happens.
#[derive(Debug, Clone)]
pub enum Event {
    /// So many milliseconds pass.
    Pass(u16),
    /// A backend, counted from the youngest, exits with this status or is killed by somebody.
    Dies(u8, Option<u8>),
    /// It says something.
    Says(u8, FromBackend),
    /// It answers its pings.
    Beats(u8),
    /// It claims so much.
    Claims(u8, u64, u32),
    /// The kernel is done with what it began, or not any more.
    Settles(u8, bool),
    /// So many of the next backends cannot be prepared, so many that were cannot be started.
    CannotBe(u8, u8),
    /// The vmm says something.
    Incoming(FromVmm),
    /// The vmm dies.
    VmmDies,
    /// The API is asked for another backend, and waits.
    Restart,
    /// The API is asked for another program, and waits.
    Upgrade,
    /// The API is asked to end the VM.
    Stop {
        /// At once.
        force: bool,
    },
}

impl Event {
    /// Whether a VM whose guest has run may end after it, at once or later.
    pub(super) fn may_end(&self) -> bool {
        match self {
            Self::VmmDies | Self::Stop { .. } => true,
            Self::Incoming(message) => matches!(message, FromVmm::Ended(_) | FromVmm::Failed(_)),
            _ => false,
        }
    }
}
