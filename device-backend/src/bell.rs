// SPDX-License-Identifier: Apache-2.0
//! What wakes a worker when none of its queues does: its bell, rung by other threads, and a
//! descriptor of its engine.
//!
//! A worker sleeps in the event loop of vhost-user-backend, which knows its events by number.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use vhost_user_backend::VringEpollHandler;
use vmm_sys_util::epoll::EventSet;

use crate::serve::Device;

/// Readable when a worker is to look around and to show that it lives.
#[derive(Debug)]
pub struct Bell(EventFd);

impl Bell {
    /// A bell that is silent.
    pub fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(EventFd::from_flags(flags)?))
    }

    /// Rings it.
    pub fn ring(&self) {
        let _ = self.0.write(1);
    }

    /// Silences it.
    pub fn silence(&self) {
        let _ = self.0.read();
    }
}

/// The numbers of a worker's events: those of the queues come first, the next is the event loop's
/// own.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    /// That of the worker's engine.
    pub engine: u16,
    /// That of its bell.
    pub bell: u16,
}

impl Events {
    /// For a device with so many queues.
    pub fn of(queues: u16) -> Self {
        Self {
            engine: queues + 1,
            bell: queues + 2,
        }
    }

    /// Lets a worker hear of its engine's descriptor, and of its bell.
    pub fn watch<D: Device>(
        self,
        handler: &VringEpollHandler<std::sync::Arc<D>>,
        (engine, set): (BorrowedFd<'_>, EventSet),
        bell: &Bell,
    ) -> io::Result<()> {
        handler.register_listener(engine.as_raw_fd(), set, u64::from(self.engine))?;
        let bell = bell.0.as_fd().as_raw_fd();
        handler.register_listener(bell, EventSet::IN, u64::from(self.bell))
    }
}
