// SPDX-License-Identifier: Apache-2.0
//! Who may connect to our sockets, besides those whom the directory's mode lets in.

use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;

/// Whether the peer is root or the user the VM belongs to.
pub(crate) fn may_connect(stream: &UnixStream) -> bool {
    match getsockopt(stream, PeerCredentials) {
        Ok(peer) => peer.uid() == 0 || peer.uid() == geteuid().as_raw(),
        Err(_) => false,
    }
}
