// SPDX-License-Identifier: Apache-2.0
//! Gives a standalone backend's descriptors the numbers that they have in a jail: the seccomp
//! filters match descriptors by number.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

/// Numbers below this one belong to the tables of descriptors in `ipc::fd`.
const TABLE_END: RawFd = 32;

/// Moves a descriptor above the table.
pub fn above_table(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() >= TABLE_END {
        return Ok(fd);
    }
    let number = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(TABLE_END))?;
    Ok(own(number))
}

/// Moves a descriptor to a number of the table.
#[allow(unsafe_code)]
pub fn at(number: RawFd, fd: OwnedFd) -> nix::Result<OwnedFd> {
    let fd = above_table(fd)?;
    // SAFETY: no pointers; the number belongs to the table, and everything this process opens
    // before its table is complete is kept above it (`above_table`), so the number has no owner.
    let placed = unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) };
    nix::errno::Errno::result(placed).map(own)
}

#[allow(unsafe_code)]
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor, so it has no other owner.
    unsafe { OwnedFd::from_raw_fd(number) }
}
