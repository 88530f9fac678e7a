// SPDX-License-Identifier: Apache-2.0
//! Descriptors at the numbers they would have in a jail, for a process that runs alone: the seccomp
//! filters know them by number.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};

/// The numbers from 3 up to this one belong to the tables of descriptors in `ipc::fd`.
const TABLE_END: RawFd = 32;

/// Moves a descriptor out of the way of the table.
pub fn above_table(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() >= TABLE_END {
        return Ok(fd);
    }
    let number = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(TABLE_END))?;
    Ok(own(number))
}

/// Gives a descriptor a number of the table.
#[allow(unsafe_code)]
pub fn at(number: RawFd, fd: OwnedFd) -> nix::Result<OwnedFd> {
    let fd = above_table(fd)?;
    // SAFETY: no pointers; the number belongs to the table, and everything this process opens
    // before its table is complete is kept above it (`above_table`), so nobody owns it.
    let placed = unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) };
    nix::errno::Errno::result(placed).map(own)
}

#[allow(unsafe_code)]
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(number) }
}
