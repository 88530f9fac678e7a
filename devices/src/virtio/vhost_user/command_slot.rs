// SPDX-License-Identifier: Apache-2.0
//! The command slot of a device's thread: other threads post commands, the device's thread takes
//! all of them at once. Commands of one kind are merged, so that a guest that repeats itself cannot
//! make the slot grow. Posting never waits for the device's thread.
//!
//! `models.rs` tests this file with many orders of its threads.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use super::sync::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd, Mutex, MutexGuard, PoisonError};
use crate::virtio::device::{Activation, QueueIndex};

/// All pending commands.
#[derive(Default)]
pub(super) struct Commands {
    /// A command was posted since the last take.
    fresh: bool,
    /// End the thread.
    pub(super) quit: bool,
    /// The previous backend is gone, and its I/O is fenced.
    pub(super) fenced: bool,
    /// Connect to this new backend.
    pub(super) stream: Option<OwnedFd>,
    /// Check this backend.
    pub(super) probe: Option<OwnedFd>,
    /// Use the checked backend as the new one.
    pub(super) switch: bool,
    /// The driver is ready.
    pub(super) activation: Option<Activation>,
    /// Reset the device, after the activation, if there is one.
    pub(super) reset: bool,
    /// Stop the queues, or run them again.
    pub(super) drain: Option<bool>,
    /// Stop the queues whatever backend is attached, or no longer.
    pub(super) hold: Option<bool>,
    /// Report a change of the configuration space to the driver.
    pub(super) config_changed: bool,
    /// Queues whose notification did not come through a doorbell.
    pub(super) notified: BTreeSet<QueueIndex>,
}

/// The command slot of one device.
pub(super) struct CommandSlot {
    pending: Mutex<Commands>,
    wake: EventFd,
}

impl fmt::Debug for CommandSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandSlot").finish_non_exhaustive()
    }
}

impl CommandSlot {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            pending: Mutex::default(),
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Commands> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts a command; returns what `write` replaced. A replaced stream must be returned and not
    /// dropped inside: closing it can block in the kernel while vCPU threads wait for the lock.
    pub(super) fn post<R>(&self, write: impl FnOnce(&mut Commands) -> R) -> R {
        let mut pending = self.lock();
        let replaced = write(&mut pending);
        pending.fresh = true;
        drop(pending);
        // A full eventfd wakes as well. Only the vmm has it.
        let _ = self.wake.write(1);
        replaced
    }

    /// Takes all pending commands.
    pub(super) fn take(&self) -> Commands {
        std::mem::take(&mut self.lock())
    }

    /// Waits for a command: while there is none, calls `wait`, which polls [`Self::wake`] and
    /// drains it. A `Deadline` also drains it, so check the slot first.
    pub(super) fn wait_for_command(&self, mut wait: impl FnMut()) {
        while self.is_empty() {
            wait();
        }
    }

    /// Whether no command is pending.
    fn is_empty(&self) -> bool {
        !self.lock().fresh
    }

    /// Whether a pending command makes the current exchange with a backend pointless.
    pub(super) fn interrupts(&self) -> bool {
        let pending = self.lock();
        pending.quit || pending.fenced || pending.switch || pending.stream.is_some()
    }

    /// Becomes readable when a command is posted.
    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }
}
