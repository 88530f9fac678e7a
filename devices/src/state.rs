// SPDX-License-Identifier: Apache-2.0
//! What a device's registers hold, as plain data without descriptors, eventfds or threads.
//!
//! Each device has `save`, which tells its state, and `restore`, which puts it into a device that was
//! just made. A guest is not running meanwhile. A state may come from a file that anyone has written:
//! `restore` checks what the registers would have checked, and leaves the device as it was if the state
//! is impossible.

/// Why a state cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// It is of a device with another number of parts.
    #[error("the state has {found} {what}, the device {expected}")]
    Count {
        /// What the parts are.
        what: &'static str,
        /// How many the state has.
        found: usize,
        /// How many the device has.
        expected: usize,
    },
    /// A queue is enabled that could never have been.
    #[error("the state has queue {0} enabled, whose addresses or size are invalid")]
    Queue(usize),
    /// The driver has accepted features that the device does not offer.
    #[error("the state has features that the device does not offer: {0:#x}")]
    Features(u64),
}

/// Checks a number of parts.
pub(crate) fn check_count(
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), StateError> {
    if found == expected {
        return Ok(());
    }
    Err(StateError::Count {
        what,
        found,
        expected,
    })
}
