// SPDX-License-Identifier: Apache-2.0
//! The socket of a standalone backend: bound by itself, or inherited. (vhost-user specification,
//! "Backend programs")

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{getsockopt, sockopt};

use crate::fd_table;

/// Why a socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Another process listens on it.
    #[error("{0}: another process listens there")]
    Taken(String),
    /// It cannot be bound.
    #[error("{0}")]
    Bind(String, #[source] io::Error),
    /// Nothing was inherited at this number.
    #[error("--fd {0}: no such descriptor")]
    Missing(RawFd),
    /// The inherited descriptor is not a listening socket.
    #[error("--fd {0}: not a listening socket")]
    NotListening(RawFd),
    /// It cannot be moved above the table.
    #[error("cannot duplicate the socket")]
    Move(#[from] nix::Error),
}

/// Binds the socket. Removes the socket file of a dead process, but not of a live one.
pub fn bind(path: &Path) -> Result<OwnedFd, ListenerError> {
    let name = path.display().to_string();
    let about = |e| ListenerError::Bind(name.clone(), e);
    if path
        .symlink_metadata()
        .is_ok_and(|m| m.file_type().is_socket())
    {
        // Do not probe by connecting: a backend serves only one connection.
        let sockets = std::fs::read_to_string("/proc/net/unix").map_err(about)?;
        if sockets
            .lines()
            .any(|line| line.split(' ').next_back() == Some(&name))
        {
            return Err(ListenerError::Taken(name));
        }
        std::fs::remove_file(path).map_err(about)?;
    }
    let listener = UnixListener::bind(path).map_err(about)?;
    Ok(fd_table::above_table(listener.into())?)
}

/// Takes over a socket that is bound and listens; before anything else in the process is opened.
#[allow(unsafe_code)]
pub fn inherited(number: RawFd) -> Result<OwnedFd, ListenerError> {
    if number < 3 || fcntl(borrow(number), FcntlArg::F_GETFD).is_err() {
        return Err(ListenerError::Missing(number));
    }
    // SAFETY: it is open (checked above), is not one of the standard three, and nothing in this
    // process has opened anything yet.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    if !getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false) {
        return Err(ListenerError::NotListening(number));
    }
    Ok(fd_table::above_table(fd)?)
}

#[allow(unsafe_code)]
fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: `number` is not -1; used only to ask whether it is open.
    unsafe { BorrowedFd::borrow_raw(number) }
}
