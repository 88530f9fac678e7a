// SPDX-License-Identifier: Apache-2.0
//! Descriptors that the command line names.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// Takes an inherited descriptor: call it once for each number that the command line names (which names
/// none twice), before the process opens anything else.
///
/// # Errors
/// When nothing is open there.
pub fn own(number: RawFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{number}");
    if number < host::descriptors::STANDARD || !Path::new(&path).is_symlink() {
        return Err(io::Error::from_raw_os_error(
            nix::errno::Errno::EBADF as i32,
        ));
    }
    // SAFETY: it is open, as was just seen, and is not a standard one; the process has opened nothing
    // and taken no number twice, as `args::parse` and `main` see to.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    nix::fcntl::fcntl(
        &owned,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_standard_or_not_open_is_refused() {
        for number in [-1, 0, 2, 5000] {
            assert!(own(number).is_err(), "{number}");
        }
    }
}
