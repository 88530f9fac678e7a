// SPDX-License-Identifier: Apache-2.0
//! The pseudo-terminal of `console: pty`.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// Opens a pair: the primary, non-blocking, for the vmm; the secondary, kept open so that the
/// primary does not hang up while no user has the terminal open; and the terminal's path.
pub(crate) fn open_pair() -> nix::Result<(OwnedFd, OwnedFd, String)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let primary = posix_openpt(flags)?;
    grantpt(&primary)?;
    unlockpt(&primary)?;
    let path = ptsname_r(&primary)?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let secondary = open(path.as_str(), flags, Mode::empty())?;
    // The guest's getty does the line editing; an echo here would type its output back at it.
    let mut mode = tcgetattr(&secondary)?;
    cfmakeraw(&mut mode);
    tcsetattr(&secondary, SetArg::TCSANOW, &mode)?;
    let primary = primary.as_fd().try_clone_to_owned();
    Ok((primary.map_err(|_| Errno::EMFILE)?, secondary, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{read, write};

    #[test]
    fn pair_passes_bytes_unchanged_and_does_not_echo() {
        let (primary, secondary, path) = open_pair().unwrap();
        assert!(path.starts_with("/dev/pts/"), "{path}");
        write(&primary, b"hi\n").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(read(&secondary, &mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"hi\n");
        assert_eq!(read(&primary, &mut buffer), Err(Errno::EAGAIN));
    }
}
