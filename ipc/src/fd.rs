// SPDX-License-Identifier: Apache-2.0
//! The file descriptors that a child inherits: the same numbers in every process and every version.
//!
//! 0 and 1 are /dev/null and 2 is the log; all three are always open, because Rust's start-up code
//! ends a process that lacks one.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, fcntl};

/// The launch record: a sealed memfd of JSON.
pub const RECORD: RawFd = 3;
/// The control socket: SOCK_SEQPACKET, connected to the supervisor.
pub const CONTROL: RawFd = 4;
/// The health page: a sealed memfd of one page.
pub const HEALTH: RawFd = 5;

/// The vmm's descriptors.
pub mod vmm {
    use std::os::fd::RawFd;

    use crate::slot::DeviceSlot;

    /// /dev/kvm.
    pub const KVM: RawFd = 6;
    /// Guest memory: a sealed memfd.
    pub const GUEST_RAM: RawFd = 7;
    /// The guest kernel, read-only.
    pub const KERNEL: RawFd = 8;
    /// The initial RAM disk, read-only; only if the record announces one.
    pub const INITRD: RawFd = 9;
    /// COM1: a socket, a pseudo-terminal, a file or /dev/null. The supervisor has made it
    /// non-blocking.
    pub const CONSOLE: RawFd = 10;

    /// The state that the vmm before has saved: a memfd; only if the record says that it is restored.
    pub const STATE: RawFd = 11;

    const FIRST_DEVICE: RawFd = 16;
    /// The power button's, whose slot is behind all others: there are no numbers behind theirs.
    const POWER_BUTTON: RawFd = 14;

    /// The two descriptors of a device: a stream connected to its backend, and the in-flight region
    /// of its backends; the second only if the record announces one.
    pub fn device(slot: DeviceSlot) -> (RawFd, RawFd) {
        let stream = match slot {
            DeviceSlot::POWER_BUTTON => POWER_BUTTON,
            _ => FIRST_DEVICE + 2 * RawFd::from(slot.number() - 1),
        };
        (stream, stream + 1)
    }
}

/// A disk backend's descriptors.
pub mod blk {
    use std::os::fd::RawFd;

    /// The vhost-user socket: bound and listening, with one connection pending.
    pub const LISTENER: RawFd = 6;
    /// The image, only for the threads engine.
    pub const DISK: RawFd = 7;
    /// The in-flight region: a sealed memfd that all generations of the backend share.
    pub const INFLIGHT: RawFd = 8;
    /// The io_uring of queue 0, only for the io_uring engine; those of the other queues follow it.
    pub const RING: RawFd = 9;
    /// The most queues of a disk, so the most io_urings.
    pub const QUEUES_MAX: u16 = 16;
}

/// A network backend's descriptors.
pub mod net {
    use std::os::fd::RawFd;

    /// The vhost-user socket: bound and listening, with one connection pending.
    pub const LISTENER: RawFd = 6;
    /// The control state: a sealed memfd of [`STATE_BYTES`] that all generations of the backend
    /// share. All zeroes is the state before the driver has sent a command.
    pub const STATE: RawFd = 7;
    /// The length of the control state.
    pub const STATE_BYTES: usize = 4096;
    /// The first queue of the tap, non-blocking; the others follow it.
    pub const TAP: RawFd = 8;
    /// The most queues of a tap, so the most pairs of virtqueues.
    pub const PAIRS_MAX: u16 = 8;
}

/// The power button's descriptors.
pub mod input {
    use std::os::fd::RawFd;

    /// The vhost-user socket: bound and listening, with one connection pending.
    pub const LISTENER: RawFd = 6;
    /// How far presses were delivered: a sealed memfd of [`STATE_BYTES`] that all generations of the
    /// backend share. All zeroes if none was.
    pub const STATE: RawFd = 7;
    /// The length of that state.
    pub const STATE_BYTES: usize = 4096;
    /// The device's virtqueues: events and status.
    pub const QUEUES: u16 = 2;
    /// The most entries of a queue.
    pub const QUEUE_SIZE: u16 = 64;
}

/// Why an inherited descriptor cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum FdError {
    /// Nothing is open at this number.
    #[error("file descriptor {number} was not inherited")]
    Missing {
        /// The number.
        number: RawFd,
        /// What fcntl answered.
        #[source]
        source: nix::Error,
    },
    /// It was claimed before, or is not one of the inherited numbers.
    #[error("file descriptor {0} is not there to be claimed")]
    Taken(RawFd),
}

/// One bit for each number below 64: whether it is claimed.
static CLAIMED: AtomicU64 = AtomicU64::new(0);

/// Takes ownership of an inherited descriptor, once, and marks it close-on-exec.
pub fn claim(number: RawFd) -> Result<OwnedFd, FdError> {
    if !(RECORD..64).contains(&number) {
        return Err(FdError::Taken(number));
    }
    let bit = 1_u64 << number;
    if CLAIMED.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return Err(FdError::Taken(number));
    }
    let fd = own(number);
    match fcntl(&fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(source) => {
            // Dropping it would close a number that is not open.
            std::mem::forget(fd);
            Err(FdError::Missing { number, source })
        }
    }
}

#[allow(unsafe_code)]
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the caller has checked with CLAIMED that this number has no owner in this process:
    // the process inherits it, and no other code makes an owner of a number it did not open.
    unsafe { OwnedFd::from_raw_fd(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_not_inherited_is_named() {
        let error = claim(63).unwrap_err();
        assert_eq!(error.to_string(), "file descriptor 63 was not inherited");
    }

    #[test]
    fn descriptor_standard_or_out_of_range_is_never_claimed() {
        for number in [-1, 0, 2, 64] {
            assert!(matches!(claim(number), Err(FdError::Taken(_))));
        }
    }
}
