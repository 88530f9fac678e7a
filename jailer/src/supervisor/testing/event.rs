// SPDX-License-Identifier: Apache-2.0
//! What can happen in a world.

use launch::control::{FromBackend, FromVmm};

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
    /// The vmm says something.
    Heard(FromVmm),
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
