// SPDX-License-Identifier: Apache-2.0
//! What a user gets wrong is one line that names it, and nothing is left behind.

use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::harness::{BINARY, Backend, Dir};

/// Starts the program with a disk; it must fail at once with one line that says this.
fn refused(dir: &Dir, disk: &str, says: &str) {
    let socket = dir.path("refused.sock");
    let mut command = Command::new(BINARY);
    let output = command
        .arg("--socket-path")
        .arg(&socket)
        .args(["--disk", disk])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(text.contains(says), "{text:?} does not say {says:?}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    assert!(!socket.exists());
}

#[test]
fn image_that_cannot_be_a_disk_is_refused() {
    let dir = Dir::new("images");
    let path = |name: &str| dir.path(name).display().to_string();
    refused(&dir, &format!("path={}", path("missing")), "No such file");
    refused(
        &dir,
        &format!("path={}", path("")),
        "neither a regular file nor",
    );
    std::fs::write(dir.path("empty"), "").unwrap();
    refused(&dir, &format!("path={}", path("empty")), "empty");
    std::fs::write(dir.path("odd"), [0; 513]).unwrap();
    refused(
        &dir,
        &format!("path={}", path("odd")),
        "not a multiple of 512",
    );
}

#[test]
fn queues_out_of_range_are_refused() {
    let dir = Dir::new("ranges");
    let image = dir.image(1 << 20);
    for (option, says) in [
        ("queues=0", "queues=0"),
        ("queues=17", "queues=17"),
        ("queue-size=8", "queue-size=8"),
        ("queue-size=2048", "queue-size=2048"),
        ("queue-size=100", "queue-size=100"),
    ] {
        refused(&dir, &format!("path={},{option}", image.display()), says);
    }
}

#[test]
fn image_in_use_is_refused() {
    let dir = Dir::new("in-use");
    let image = dir.image(1 << 20);
    let backend = Backend::start(&dir, &format!("path={}", image.display()));
    let _connection = backend.connect();
    refused(
        &dir,
        &format!("path={}", image.display()),
        "locked by another",
    );
}

#[test]
fn socket_of_a_living_process_is_refused_and_a_stale_one_replaced() {
    let dir = Dir::new("sockets");
    let image = dir.image(1 << 20);
    let disk = format!("path={}", image.display());
    let living = UnixListener::bind(dir.path("blk.sock")).unwrap();
    let mut backend = Backend::start(&dir, &disk);
    let (status, log) = backend.end();
    assert!(
        !status.success() && log.contains("another process listens"),
        "{log}"
    );
    drop(living);
    let mut backend = Backend::start(&dir, &disk);
    drop(backend.connect());
    assert!(backend.end().0.success());
}

#[test]
fn capabilities_are_printed_as_json() {
    let output = Command::new(BINARY)
        .arg("--print-capabilities")
        .output()
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(r#""type": "block""#), "{text}");
}
