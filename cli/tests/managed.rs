// SPDX-License-Identifier: Apache-2.0
//! What a manager does with a VM: reboots it, waits for it, and has its console where it wants it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod stage;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use serde_json::Value;
use stage::{Running, Stage, eventually};

fn detached(stage: &Stage, script: &str, more: &[&str]) {
    let more = [&["--detach"], more].concat();
    stage.start(script, &more).wait().assert_told(0, &[]);
}

fn reboots(info: &Value) -> u64 {
    info["reboots"].as_u64().unwrap()
}

#[test]
fn guest_asked_to_reboot_powers_off_and_starts_anew_whatever_a_reboot_of_its_own_does() {
    let stage = Stage::new();
    detached(&stage, "started button off", &["--on-reboot=exit"]);
    for count in 1..=6 {
        stage.do_it(&["reboot", "vm"]).assert_told(0, &[]);
        let waited = stage.do_it(&["wait", "vm", "--for", "running"]);
        waited.assert_told(0, &[]);
        assert_eq!(reboots(&stage.inspect().unwrap()), count);
    }
    let events = stage.do_it(&["events", "vm"]).stdout;
    assert!(
        events.contains("rebooted            it was asked to power off"),
        "{events}"
    );
    stage.do_it(&["stop", "vm"]).assert_told(0, &[]);
    stage.do_it(&["wait", "vm"]);
    stage.assert_clean();
}

#[test]
fn guest_that_does_not_listen_is_reset_by_force_or_when_its_time_is_over() {
    let stage = Stage::new();
    for flags in [&["--force"][..], &["--stop-timeout=1"]] {
        detached(&stage, "started say=up hang", &[]);
        let reboot = [&["reboot", "vm"], flags].concat();
        stage.do_it(&reboot).assert_told(0, &[]);
        let waited = stage.do_it(&["wait", "vm", "--for=running"]);
        waited.assert_told(0, &[]);
        assert_eq!(reboots(&stage.inspect().unwrap()), 1);
        let upup = &["wait", "vm", "--for", "console=^upup$"];
        stage.do_it(upup).assert_told(0, &[]);
        stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
        stage.assert_clean();
    }
}

#[test]
fn reboot_is_refused_where_none_can_be_or_the_vm_is_to_end() {
    let stage = Stage::new();
    stage
        .do_it(&["reboot", "vm"])
        .assert_told(4, &["VM \"vm\": there is no such VM"]);
    let vm = stage.start("hang", &["--console=none"]);
    stage.reach("starting");
    stage
        .do_it(&["reboot", "vm", "--force"])
        .assert_told(5, &["VM \"vm\": the guest has not started yet"]);
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
    vm.wait();

    detached(&stage, "started button button off", &[]);
    stage
        .do_it(&["reboot", "vm", "--stop-timeout=0"])
        .assert_told(5, &["stop-timeout \"0\": must be 1 to 86400"]);
    stage.do_it(&["pause", "vm"]).assert_told(0, &[]);
    for flag in [&[][..], &["--force"]] {
        let reboot = [&["reboot", "vm"], flag].concat();
        let paused = "VM \"vm\": the guest is paused: resume it first";
        stage.do_it(&reboot).assert_told(5, &[paused]);
    }
    stage.do_it(&["resume", "vm"]).assert_told(0, &[]);
    stage.do_it(&["stop", "vm"]).assert_told(0, &[]);
    stage
        .do_it(&["reboot", "vm", "--force"])
        .assert_told(5, &["VM \"vm\": the VM has been asked to end"]);
    assert_eq!(reboots(&stage.inspect().unwrap()), 0);
    stage.do_it(&["stop", "vm"]).assert_told(0, &[]);
    stage.do_it(&["wait", "vm"]);
    stage.assert_clean();
}

#[test]
fn wait_returns_when_the_vm_is_so_far_and_not_before() {
    let stage = Stage::new();
    let vm = stage.start("console", &["--console=socket"]);
    stage.reach("starting");
    let wait = |goal: &str| {
        let mut command = stage.bulkhead(&["wait", "vm", "--for", goal]);
        Running(command.spawn().unwrap())
    };
    let mut waiting = [wait("running"), wait("ended"), wait("console=^(now|then)$")];
    let mut console = Running(
        stage
            .bulkhead(&["console", "vm"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    for waiting in &mut waiting {
        assert!(waiting.0.try_wait().unwrap().is_none(), "too early");
    }
    console.type_in("say=then\n");
    let [running, ended, shown] = waiting;
    shown.wait().assert_told(0, &[]);
    console.type_in("started\n");
    running.wait().assert_told(0, &[]);
    console.type_in("off\n");
    ended.wait().assert_told(0, &[]);
    assert!(!stage.at("s/vm").exists(), "it was told too early");
    console.wait().assert_told(0, &[]);
    vm.wait().assert_told(0, &[]);
}

#[test]
fn wait_for_what_cannot_come_any_more_is_refused() {
    let stage = Stage::new();
    for goal in ["running", "ended", "console=x"] {
        let unknown = stage.do_it(&["wait", "vm", "--for", goal]);
        unknown.assert_told(4, &["VM \"vm\": there is no such VM in /"]);
    }
    for (goal, reason) in [
        ("running", "VM \"vm\": ended before its guest ran"),
        (
            "console=x",
            "VM \"vm\": ended before its console showed \"x\"",
        ),
    ] {
        eventually(|| {
            let vm = stage.start("hang", &["--console=socket"]);
            stage.reach("starting");
            let mut command = stage.bulkhead(&["wait", "vm", "--for", goal]);
            let waiting = Running(command.spawn().unwrap());
            // Most often it waits by then.
            stage.do_it(&["events", "vm"]).assert_told(0, &[]);
            stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
            vm.wait();
            let ended = waiting.wait();
            // Else it came too late to find the VM, or to be answered by it.
            assert!(matches!(ended.status, Some(4 | 6)), "{ended:?}");
            (ended.status == Some(4) && ended.stderr.contains(reason)).then_some(())
        });
    }
    let vm = stage.start("started hang", &["--console=none"]);
    stage.reach("running");
    stage
        .do_it(&["wait", "vm", "--for=console=x"])
        .assert_told(5, &["VM \"vm\": its console leads to none"]);
    stage
        .do_it(&["wait", "vm", "--for=console=("])
        .assert_told(2, &["is not a regular expression"]);
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
    vm.wait();
}

#[test]
fn wait_for_the_end_of_a_vm_whose_jailer_is_killed_sweeps_it_and_says_so() {
    let stage = Stage::new();
    let path = stage.at("c.sock");
    let console = format!("--console=socket={}", path.display());
    detached(&stage, "started hang", &[&console]);
    let info = stage.reach("running");
    let jailer = info["processes"][0]["pid"].as_i64().unwrap();
    let mut command = stage.bulkhead(&["wait", "vm"]);
    let waiting = Running(command.spawn().unwrap());
    let jailer = nix::unistd::Pid::from_raw(i32::try_from(jailer).unwrap());
    nix::sys::signal::kill(jailer, Signal::SIGKILL).unwrap();
    let ended = waiting.wait();
    ended.assert_told(0, &["name \"vm\": swept /"]);
    assert_eq!(ended.stdout, "jailer-lost: its jailer was killed\n");
    assert!(!path.exists(), "its socket is left");
    stage.assert_clean();
}

#[test]
fn console_shows_what_was_said_before_to_those_who_come_late() {
    let stage = Stage::new();
    detached(&stage, "started say=hello console", &[]);
    let mut first = UnixStream::connect(stage.at("s/vm/console.sock")).unwrap();
    let mut seen = [0; 5];
    first.read_exact(&mut seen).unwrap();
    let said = stage.do_it(&["console", "vm", "--log"]);
    said.assert_told(0, &[]);
    assert_eq!(said.stdout, "hello", "and the client was left alone");
    first.write_all(b"flood=131072\n").unwrap();
    let mut rest = vec![0; 131_072];
    first.read_exact(&mut rest).unwrap();
    let said = stage.do_it(&["console", "vm", "--log"]).stdout;
    assert_eq!(said.len(), 64 << 10);
    assert!(rest.ends_with(said.as_bytes()));
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}

#[test]
fn console_at_a_path_of_the_users_is_found_there_and_goes_with_the_vm() {
    let stage = Stage::new();
    // Relative to where the VM is started.
    detached(
        &stage,
        "started say=hello console",
        &["--console=socket=c.sock"],
    );
    let path = stage.at("c.sock");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!stage.at("s/vm/console.sock").exists());
    let info = stage.inspect().unwrap();
    let found = info["console_socket"].as_str().unwrap();
    assert_eq!(
        fs::canonicalize(found).unwrap(),
        fs::canonicalize(&path).unwrap()
    );
    let mut command = stage.bulkhead(&["console", "vm"]);
    command.current_dir("/").stdin(std::process::Stdio::piped());
    let mut console = Running(command.spawn().unwrap());
    let mut seen = [0; 5];
    console
        .0
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut seen)
        .unwrap();
    assert_eq!(&seen, b"hello");
    console.type_in("off\n");
    console.wait().assert_told(0, &[]);
    eventually(|| (!path.exists()).then_some(()));
}

#[test]
fn console_at_a_path_that_is_no_place_for_it_is_refused_and_nothing_is_left() {
    let stage = Stage::new();
    fs::write(stage.at("taken"), "theirs").unwrap();
    let long = "x".repeat(108);
    for (path, status, part) in [
        ("taken", 1, "the path is taken: remove what is there"),
        ("no/c.sock", 1, "does not exist: make it first"),
        ("taken/c.sock", 1, "is not a directory"),
        (&long[..], 2, "the socket's path has 108 bytes, at most 107"),
        (&long[..100], 1, "at most 107 are possible"),
    ] {
        let console = format!("--console=socket={path}");
        let refused = stage.start("started off", &[&console]).wait();
        refused.assert_told(status, &["jailer: console \"socket=", part]);
        assert_eq!(refused.stderr.lines().count(), 1, "{refused:?}");
        stage.assert_clean();
    }
    assert_eq!(fs::read_to_string(stage.at("taken")).unwrap(), "theirs");
    let missing = stage.start("started off", &["--console=socket="]).wait();
    missing.assert_told(2, &["the socket's path is missing behind socket="]);
}
