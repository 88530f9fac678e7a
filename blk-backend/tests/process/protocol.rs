// SPDX-License-Identifier: Apache-2.0
//! Connections that end before they have begun, and sockets that are inherited.

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{BINARY, Backend, Dir, PATIENCE};

#[test]
fn frontend_that_hangs_up_at_once_ends_the_process() {
    let dir = Dir::new("hangup");
    let image = dir.image(1 << 20);
    let mut backend = Backend::start(&dir, &format!("path={}", image.display()));
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(&backend.socket).is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(2));
    }
    let (status, log) = backend.end();
    assert!(status.success(), "{log}");
}

#[test]
fn socket_inherited_is_listened_to() {
    let dir = Dir::new("inherited");
    let image = dir.image(1 << 20);
    let socket = dir.path("inherited.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let fd = listener.as_raw_fd();
    nix::fcntl::fcntl(
        &listener,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let mut child = Command::new(BINARY)
        .args(["--fd", &fd.to_string(), "--blk-file"])
        .arg(&image)
        .arg("--read-only")
        .spawn()
        .unwrap();
    let connection = loadgen::connection::Connection::open(&socket, PATIENCE).unwrap();
    assert!(connection.offered() & (1 << 5) != 0, "not read-only");
    drop(connection);
    assert!(child.wait().unwrap().success());
}
