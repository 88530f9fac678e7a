// SPDX-License-Identifier: Apache-2.0
//! Which descriptors a process keeps and at which numbers.

#![allow(unsafe_code)]

use std::os::fd::RawFd;

use nix::errno::Errno;

/// The first number above stdin, stdout and stderr, which the Rust runtime keeps open.
pub const STANDARD: RawFd = 3;

/// Keeps the descriptors in `kept` (sorted) and closes every other one; 0 and 1 become `null`, 2
/// becomes `log`. An `Err` names the failed step and its errno.
pub fn keep_only(kept: &[RawFd], null: RawFd, log: RawFd) -> Result<(), (&'static str, Errno)> {
    for (number, source) in [(0, null), (1, null), (2, log)] {
        place(source, number).map_err(|errno| ("place its standard descriptors", errno))?;
    }
    close_all_but(kept).map_err(|errno| ("close descriptors", errno))
}

/// Duplicates a descriptor to the given number.
fn place(source: RawFd, number: RawFd) -> nix::Result<()> {
    // SAFETY: dup2 takes no pointers; 0, 1 and 2 have no owner in this process.
    Errno::result(unsafe { libc::dup2(source, number) }).map(drop)
}

/// Closes every descriptor except the standard ones and those in `kept`, which is sorted.
pub fn close_all_but(kept: &[RawFd]) -> nix::Result<()> {
    let mut from = STANDARD.cast_unsigned();
    for number in kept.iter().map(|number| number.cast_unsigned()) {
        if number > from {
            close_range(from, number - 1)?;
        }
        from = from.max(number + 1);
    }
    close_range(from, u32::MAX)
}

fn close_range(first: u32, last: u32) -> nix::Result<()> {
    // SAFETY: close_range takes no pointers. In the jailer nothing has been opened yet, so nothing owns
    // these numbers. In the supervisor their owners belong to the jailer, of which the process is a
    // copy; the copy of an owner is never used or dropped.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}
