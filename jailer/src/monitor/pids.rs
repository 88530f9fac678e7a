// SPDX-License-Identifier: Apache-2.0
//! Which process on the host a pidfd leads to, and whose child that is.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

/// The process id that a pidfd leads to; an error if it is no pidfd, or the process is gone.
pub(super) fn host_pid(pidfd: BorrowedFd<'_>) -> Result<i32, Errno> {
    let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(info).map_err(|_| Errno::EBADF)?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    let pid: i32 = number
        .and_then(|number| number.trim().parse().ok())
        .ok_or(Errno::EBADF)?;
    if pid > 0 { Ok(pid) } else { Err(Errno::ESRCH) }
}

/// The parent of a process.
pub(super) fn parent_of(pid: i32) -> Result<Pid, Errno> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.map_err(|_| Errno::ESRCH)?;
    let number = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let pid = number.and_then(|number| number.trim().parse().ok());
    pid.map(Pid::from_raw).ok_or(Errno::ESRCH)
}
