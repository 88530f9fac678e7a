// SPDX-License-Identifier: Apache-2.0
//! What wakes a worker besides its queues: its wake event, an eventfd that other threads write, and
//! the descriptor of its engine, if it has one.
//!
//! A worker sleeps in the event loop of vhost-user-backend, which identifies events by number.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost_user_backend::VringEpollHandler;
use vmm_sys_util::epoll::EventSet;

use crate::serve::Device;

/// An eventfd: the one kind that backends have. Readable when the worker must check for changes and
/// store its heartbeat, or when its engine has completed something.
#[derive(Debug)]
pub struct WakeEvent(EventFd);

impl WakeEvent {
    /// An event that is not readable.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(EventFd::from_flags(flags)?))
    }

    /// Makes it readable.
    pub fn notify(&self) {
        let _ = self.0.write(1);
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for WakeEvent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The numbers of a worker's events: those of the queues come first, the next one belongs to the
/// event loop itself.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    /// The number of the worker's engine.
    pub engine: u16,
    /// The number of its wake event.
    pub wake: u16,
}

impl Events {
    /// The numbers for a device with so many queues.
    pub fn of(queues: u16) -> Self {
        Self {
            engine: queues + 1,
            wake: queues + 2,
        }
    }

    /// Makes the worker's event loop watch its engine's descriptor and its wake event.
    pub fn watch<D: Device>(
        self,
        handler: &VringEpollHandler<std::sync::Arc<D>>,
        engine: Option<(BorrowedFd<'_>, EventSet)>,
        wake: &WakeEvent,
    ) -> io::Result<()> {
        if let Some((engine, set)) = engine {
            handler.register_listener(engine.as_raw_fd(), set, u64::from(self.engine))?;
        }
        let wake = wake.as_fd().as_raw_fd();
        handler.register_listener(wake, EventSet::IN, u64::from(self.wake))
    }
}
