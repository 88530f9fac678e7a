// SPDX-License-Identifier: Apache-2.0
//! What the jailer's starter leaves it (dispositions of signals, limits, the environment, the mask of
//! modes), with a real jailer and a fake vmm.

mod stage;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use host::signals::ignore;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use serde_json::json;
use stage::{Running, Stage};

#[test]
fn signals_that_the_starter_ignores_end_no_vm_but_sigterm_does() {
    let stage = Stage::new();
    let vm = stage.start_after("started button off", || {
        for signal in [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTERM,
            Signal::SIGCHLD,
        ] {
            ignore(signal)?;
        }
        Ok(())
    });
    vm.reach("running");
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        vm.signal(signal);
    }
    // The supervisor would have heard of them before this is answered.
    assert_eq!(vm.info()["state"], "running");
    vm.signal(Signal::SIGTERM);
    vm.wait().assert_told(0, &[]);
    stage.assert_clean();
}

#[test]
fn signals_that_the_starter_blocks_are_heard() {
    let stage = Stage::new();
    let vm = stage.start_after("started hang", || {
        SigSet::all().thread_block().map_err(Into::into)
    });
    vm.reach("running");
    vm.signal(Signal::SIGHUP);
    vm.wait().assert_told(129, &[]);
    stage.assert_clean();
}

#[test]
fn limit_on_file_sizes_below_mem_is_told_with_both() {
    let stage = Stage::new();
    let vm = stage.start_after("started off", || {
        let limit = 4 << 20;
        setrlimit(Resource::RLIMIT_FSIZE, limit, limit).map_err(Into::into)
    });
    vm.wait()
        .assert_told(1, &["mem \"16M\": is more than", "4M", "ulimit -f"]);
    stage.assert_clean();
}

#[test]
fn few_descriptors_and_little_locked_memory_are_enough() {
    let stage = Stage::new();
    let vm = stage.start_after("started off", || {
        let hard = 1 << 16;
        setrlimit(Resource::RLIMIT_NOFILE, 8, 1024)?;
        setrlimit(Resource::RLIMIT_MEMLOCK, 0, hard).map_err(Into::into)
    });
    vm.wait().assert_told(0, &[]);
    stage.assert_clean();
}

/// Only CAP_SYS_RESOURCE raises a hard limit, which not every root has.
#[test]
fn too_few_descriptors_are_raised_or_told() {
    let stage = Stage::new();
    let vm = stage.start_after("started off", || {
        setrlimit(Resource::RLIMIT_NOFILE, 64, 64).map_err(Into::into)
    });
    let ended = vm.wait();
    match ended.status {
        Some(0) => ended.assert_told(0, &[]),
        _ => ended.assert_told(1, &["limit on open files", "64", "LimitNOFILE="]),
    }
    stage.assert_clean();
}

#[test]
fn stale_notify_socket_matters_to_nobody() {
    let stage = Stage::new();
    let gone = stage.at("gone");
    for address in [gone.to_str().unwrap(), "@gone", "relative", "vsock:2:3"] {
        let config = stage.spec("started console", &json!({}));
        let mut command = stage.command(&config);
        let child = command.env("NOTIFY_SOCKET", address).spawn().unwrap();
        let vm = Running::of(child, stage.at("s/vm"));
        vm.reach("running");
        vm.connect("console.sock").write_all(b"off\n").unwrap();
        vm.wait().assert_told(0, &[]);
    }
    stage.assert_clean();
}

#[test]
fn mask_of_modes_changes_no_mode() {
    let stage = Stage::new();
    for mask in [0, 0o777] {
        let vm = stage.start_after("started hang", move || {
            umask(Mode::from_bits_truncate(mask));
            Ok(())
        });
        vm.reach("running");
        let mode = |path: &str| {
            let found = std::fs::metadata(stage.at(path)).unwrap();
            found.permissions().mode() & 0o777
        };
        assert_eq!(mode("s/vm"), 0o700, "mask {mask:o}");
        assert_eq!(mode("s/vm/api.sock"), 0o600, "mask {mask:o}");
        assert_eq!(mode("s/vm/log"), 0o600, "mask {mask:o}");
        vm.signal(Signal::SIGHUP);
        vm.wait().assert_told(129, &[]);
    }
    stage.assert_clean();
}
