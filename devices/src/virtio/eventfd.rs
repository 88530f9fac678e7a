// SPDX-License-Identifier: Apache-2.0
//! The eventfds of a queue. The backend shares them and may be hostile: it may fill them, drain
//! them and change their flags at any time. So the vmm never reads one in a way that could block,
//! and only writes the kicks of external backends, on their device's own thread.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The eventfds by which driver and device of a queue notify each other.
#[derive(Debug)]
pub struct QueueEvents {
    /// Readable when the driver has made buffers available.
    pub kick: EventFd,
    /// Readable when the device has used buffers.
    pub call: EventFd,
}

impl QueueEvents {
    /// Makes both eventfds.
    pub fn new() -> io::Result<Self> {
        let flags = EFD_CLOEXEC | EFD_NONBLOCK;
        Ok(Self {
            kick: EventFd::new(flags)?,
            call: EventFd::new(flags)?,
        })
    }
}

/// Borrows the descriptor of an eventfd.
#[allow(unsafe_code)]
pub fn borrow(eventfd: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: `eventfd` owns the descriptor and outlives the borrow by the signature.
    unsafe { BorrowedFd::borrow_raw(eventfd.as_raw_fd()) }
}

/// Whether an eventfd has been signalled and not read since.
pub fn is_readable(eventfd: &EventFd) -> bool {
    has(eventfd, PollFlags::POLLIN)
}

/// Whether one more signal would not block.
pub fn is_writable(eventfd: &EventFd) -> bool {
    has(eventfd, PollFlags::POLLOUT)
}

fn has(eventfd: &EventFd, event: PollFlags) -> bool {
    let mut fds = [PollFd::new(borrow(eventfd), event)];
    let [fd] = match poll(&mut fds, PollTimeout::ZERO) {
        Ok(_) => &fds,
        Err(_) => return false,
    };
    fd.revents().is_some_and(|events| events.contains(event))
}

/// Makes an eventfd unreadable; returns whether it was readable. Never blocks, even if a backend
/// has cleared O_NONBLOCK.
#[allow(unsafe_code)]
pub fn drain(eventfd: &EventFd) -> bool {
    let mut count = 0_u64;
    let iov = libc::iovec {
        iov_base: (&raw mut count).cast(),
        iov_len: size_of::<u64>(),
    };
    // SAFETY: `iov` is one vector of 8 bytes that all lie in `count`, which nothing else accesses
    // during the call.
    let len =
        unsafe { libc::preadv2(eventfd.as_raw_fd(), &raw const iov, 1, -1, libc::RWF_NOWAIT) };
    len == 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    #[test]
    fn drain_empties_and_says_whether_there_was_anything() {
        let events = QueueEvents::new().unwrap();
        assert!(!is_readable(&events.call) && !drain(&events.call));
        events.call.write(3).unwrap();
        assert!(is_readable(&events.call) && drain(&events.call));
        assert!(!is_readable(&events.call) && !drain(&events.call));
    }

    #[test]
    fn drain_of_an_eventfd_made_blocking_does_not_wait() {
        let events = QueueEvents::new().unwrap();
        fcntl(borrow(&events.call), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
        assert!(!drain(&events.call));
    }

    #[test]
    fn eventfd_filled_is_not_writable_until_drained() {
        let events = QueueEvents::new().unwrap();
        assert!(is_writable(&events.kick));
        events.kick.write(u64::MAX - 1).unwrap();
        assert!(!is_writable(&events.kick));
        assert!(drain(&events.kick) && is_writable(&events.kick));
    }
}
