// SPDX-License-Identifier: Apache-2.0
//! A command line that cannot be served ends in one line that says why.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;

use loadgen::net::host::{enter_namespace, tap};

use crate::harness::BINARY;

/// The exit status and what was said.
fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(BINARY)
        .args(["--socket-path", "/nonexistent/socket"])
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    (output.status.code().unwrap(), text)
}

#[test]
fn tap_that_cannot_be_had_is_refused_in_one_line() {
    enter_namespace().unwrap();
    let busy = host::tap::open("busy", 1).unwrap();
    let multi = host::tap::open("multi", 2).unwrap();
    for (arguments, said) in [
        (&["--tap", "sixteen-bytes-xx"][..], "1 to 15 bytes"),
        (&["--tap", "a/b"], "no slash"),
        (&["--tap", "lo"], "not a tap"),
        (&["--tap", "busy"], "in use"),
        (&["--tap", "busy", "--queues", "2"], "one queue only"),
        (&["--tap", "multi"], "multi_queue"),
        (&["--tap", "a", "--queues", "0"], "queues=0"),
        (&["--tap", "a", "--queues", "9"], "queues=9"),
        (&["--tap", "a", "--queue-size", "100"], "queue-size=100"),
        (&["--tap", "a", "--mtu", "67"], "mtu=67"),
        (
            &["--tap", "a", "--mac", "01:00:00:00:00:01"],
            "group address",
        ),
        (&["--tap", "a", "--guard", "mac"], "needs mac="),
        (&["--tap-fd", "99"], "no such descriptor"),
        (&["--tap", "a"], "/nonexistent/socket"),
    ] {
        let (status, text) = run(arguments);
        assert_eq!(status, 1, "{text}");
        assert!(text.contains(said), "{arguments:?}: {text}");
    }
    drop((busy, multi));
}

#[test]
fn descriptor_that_is_no_tap_is_refused() {
    refused(&File::open("/dev/null").unwrap(), "not a tap");
}

#[test]
fn tap_inherited_with_other_flags_is_refused() {
    enter_namespace().unwrap();
    for (name, flags) in [
        ("bare", libc::IFF_TAP | libc::IFF_NO_PI),
        ("tun", libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR),
    ] {
        let said = format!("flags {flags:#x}: it needs tap, no_pi and vnet_hdr");
        refused(&tap(name, flags).unwrap(), &said);
    }
}

/// The process does not take this as a queue of a tap.
fn refused(inherited: &(impl AsRawFd + AsFd), said: &str) {
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
    nix::fcntl::fcntl(inherited, flags).unwrap();
    let (status, text) = run(&["--tap-fd", &inherited.as_raw_fd().to_string()]);
    assert_eq!(status, 1);
    assert!(text.contains(said), "{said}: {text}");
}
