// SPDX-License-Identifier: Apache-2.0
//! What other threads want of a device's thread. It holds wishes, not a history of them: however
//! often a guest repeats itself, the mailbox does not grow, and leaving something in it never waits
//! for the device's thread to do anything.
//!
//! `models.rs` runs this file in many orders of its threads.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use super::sync::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd, Mutex, MutexGuard, PoisonError};
use crate::virtio::device::{Activation, QueueIndex};

/// Everything that waits to be done.
#[derive(Default)]
pub(super) struct Mail {
    /// Something was left since it was last taken out.
    fresh: bool,
    /// The device is to end.
    pub(super) quit: bool,
    /// The backend before is gone, and so is all it had in progress.
    pub(super) fenced: bool,
    /// A new backend.
    pub(super) stream: Option<OwnedFd>,
    /// A backend to be judged.
    pub(super) probe: Option<OwnedFd>,
    /// The backend that was judged is the new one.
    pub(super) switch: bool,
    /// The driver is ready.
    pub(super) activation: Option<Activation>,
    /// The driver wants a reset; if there is an activation too, that came first.
    pub(super) reset: bool,
    /// The queues are to be stopped for a while, or to go on.
    pub(super) drain: Option<bool>,
    /// The driver is to be told that its configuration space reads otherwise.
    pub(super) config_changed: bool,
    /// Queues that the driver notified by the slow way.
    pub(super) notified: BTreeSet<QueueIndex>,
}

/// The mailbox of one device.
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    wake: EventFd,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            mail: Mutex::default(),
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves something in the mailbox; returns what `write` took out for it. A stream that is
    /// replaced must be returned: closing it runs code of the kernel's that may take its time, and
    /// vCPU threads wait for the lock.
    pub(super) fn leave<R>(&self, write: impl FnOnce(&mut Mail) -> R) -> R {
        let mut mail = self.lock();
        let replaced = write(&mut mail);
        mail.fresh = true;
        drop(mail);
        // A full eventfd wakes as well. It belongs to this process alone.
        let _ = self.wake.write(1);
        replaced
    }

    /// Takes everything out.
    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut self.lock())
    }

    /// Waits for something to be left: as long as there is nothing, calls `wait`, which waits for
    /// [`Self::wake`] and drains it. Others drain it while there is mail, so it is looked for first.
    pub(super) fn wait_for_mail(&self, mut wait: impl FnMut()) {
        while self.is_empty() {
            wait();
        }
    }

    /// Whether there is nothing in it.
    fn is_empty(&self) -> bool {
        !self.lock().fresh
    }

    /// Whether what is in it makes talking to the current backend pointless.
    pub(super) fn interrupts(&self) -> bool {
        let mail = self.lock();
        mail.quit || mail.fenced || mail.switch || mail.stream.is_some()
    }

    /// Becomes readable when something is left.
    pub(super) fn wake(&self) -> &EventFd {
        &self.wake
    }
}
