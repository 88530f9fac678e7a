// SPDX-License-Identifier: Apache-2.0
//! Why the machine ends: the first reason that any thread sets wins.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use devices::guest_event::{GuestEvent, GuestEvents};
use ipc::control::Ending;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Why the machine ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The guest ended.
    Guest(Ending),
    /// The host cannot run it: the error, on one line.
    Host(String),
}

/// Set once, by any thread; wakes the main thread.
#[derive(Debug)]
pub struct ExitLatch {
    reason: OnceLock<Reason>,
    wake: EventFd,
}

impl ExitLatch {
    /// A latch without a reason.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self {
            reason: OnceLock::new(),
            wake,
        })
    }

    /// Ends the machine for this reason, unless it has one already.
    pub fn set(&self, reason: Reason) {
        if self.reason.set(reason).is_ok() {
            // Cannot fail: the counter goes from 0 to 1.
            let _ = self.wake.write(1);
        }
    }

    /// The reason, if set. The descriptor becomes readable with it.
    pub fn reason(&self) -> Option<&Reason> {
        self.reason.get()
    }
}

#[allow(unsafe_code)]
impl AsFd for ExitLatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open as long as `self`, from which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) }
    }
}

impl GuestEvents for ExitLatch {
    fn report(&self, event: GuestEvent) {
        self.set(Reason::Guest(match event {
            GuestEvent::PowerOff => Ending::PowerOff,
            GuestEvent::Reset => Ending::Reboot,
            GuestEvent::Panic => Ending::Panic,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_keeps_its_first_reason() {
        let end = ExitLatch::new().unwrap();
        assert_eq!(end.reason(), None);
        end.report(GuestEvent::Panic);
        end.report(GuestEvent::Reset);
        assert_eq!(end.reason(), Some(&Reason::Guest(Ending::Panic)));
        assert_eq!(end.wake.read().unwrap(), 1);
    }
}
