// SPDX-License-Identifier: Apache-2.0
//! How VMs begin, reboot and end, with a real jailer and a fake vmm.

mod stage;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use stage::{PATIENCE, Running, Stage, eventually, is_alive};

#[test]
fn ending_of_the_guest_is_the_exit_status_and_nothing_is_left() {
    let stage = Stage::new();
    for (script, status, parts) in [
        ("started off", 0, &[][..]),
        ("started panic", 3, &["panicked"]),
        ("started crash", 3, &["crashed"]),
        ("started fault", 3, &["triple fault", "5 resets"]),
        ("fail=kernel", 1, &["kernel \"/", "liking"]),
        ("fail=cpus", 1, &["cpus \"1\": is not"]),
        ("fail=", 1, &["cannot go on: is not"]),
        ("started rubbish", 1, &["malformed control message"]),
        ("started oversize", 1, &["8192 bytes"]),
        ("started exit=4", 1, &["exited with status 4"]),
        ("exit=0", 1, &["without a word"]),
        // The first process of a pid namespace cannot signal itself: this is what abort ends in.
        ("started abort", 1, &["killed by SIGSEGV"]),
        ("started syscall=2 exit=159", 1, &["seccomp", "open (2)"]),
    ] {
        stage.run(script).assert_told(status, parts);
        stage.assert_clean();
    }
}

#[test]
fn death_without_a_word_shows_the_log() {
    let stage = Stage::new();
    let vm = stage.start("log=the-reason started hang");
    vm.reach("running");
    let pid = i32::try_from(vm.vmm_pid()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let ended = vm.wait();
    assert_eq!(ended.status, Some(1));
    for part in ["killed by SIGKILL", "log: the-reason"] {
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
    stage.assert_clean();
}

#[test]
fn vmm_that_says_it_ends_and_stays_is_killed() {
    let begun = Instant::now();
    let stage = Stage::new();
    stage.run("started off-and-stay hang").assert_told(0, &[]);
    assert!(begun.elapsed().as_secs() >= 2);
    stage.assert_clean();
}

#[test]
fn vmm_that_cannot_be_executed_is_told() {
    let stage = Stage::new();
    std::fs::remove_file(stage.vmm()).unwrap();
    std::fs::write(stage.vmm(), "no program").unwrap();
    stage
        .run("")
        .assert_told(1, &["cannot execute the program: Permission denied"]);
    std::fs::remove_file(stage.vmm()).unwrap();
    stage
        .run("")
        .assert_told(1, &["vmm \"/", "beside the jailer"]);
    stage.assert_clean();
}

#[test]
fn reboot_is_a_fresh_vmm_with_fresh_memory_and_the_whole_kernel() {
    let stage = Stage::new();
    let vm = stage.start("started ram kernel console");
    let mut console = vm.connect("console.sock");
    let mut seen = [0; 17];
    console.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"fresh the kernel ");
    let first = vm.vmm_pid();
    console.write_all(b"reboot\n").unwrap();
    console.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"fresh the kernel ");
    let info = vm.info();
    assert_eq!(info["reboots"], 1);
    assert_ne!(info["processes"][2]["pid"].as_i64(), Some(first));
    console.write_all(b"off\n").unwrap();
    vm.wait().assert_told(0, &[]);
    stage.assert_clean();
}

#[test]
fn reboot_waits_for_a_backend_of_somebody_else_unless_asked_to_end() {
    let stage = Stage::new();
    let path = stage.at("rng");
    let backend = UnixListener::bind(&path).unwrap();
    let devices = json!({"vhost_user": [{"type": "rng", "socket": path}]});
    let vm = stage.start_with("started console", &devices);
    vm.reach("running");
    let mut console = vm.connect("console.sock");
    let away = |backend, console: &mut dyn Write| {
        drop(backend);
        std::fs::remove_file(&path).unwrap();
        console.write_all(b"reboot\n").unwrap();
        vm.reach("starting");
        assert_eq!(vm.info()["devices"][0]["state"], "connecting");
    };
    away(backend, &mut console);
    let backend = UnixListener::bind(&path).unwrap();
    vm.reach("running");
    assert_eq!(vm.info()["reboots"], 1);
    away(backend, &mut console);
    vm.signal(Signal::SIGTERM);
    vm.wait().assert_told(0, &[]);
    stage.assert_clean();
}

#[test]
fn reboot_ends_the_vm_if_the_spec_says_so() {
    let stage = Stage::new();
    let exits = json!({"on_reboot": "exit"});
    let vm = stage.start_with("started reboot", &exits);
    vm.wait().assert_told(0, &[]);
    let vm = stage.start_with("started fault", &exits);
    vm.wait().assert_told(3, &["triple fault"]);
}

#[test]
fn reboot_storm_ends_the_vm() {
    let stage = Stage::new();
    stage
        .run("started reboot")
        .assert_told(3, &["a reboot loop", "5 resets"]);
    stage.assert_clean();
}

#[test]
fn first_signal_presses_the_button_and_the_second_ends() {
    let stage = Stage::new();
    for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let obedient = stage.start("started button off");
        obedient.reach("running");
        obedient.signal(signal);
        obedient.wait().assert_told(0, &[]);

        let stubborn = stage.start("started button hang");
        stubborn.reach("running");
        stubborn.signal(signal);
        stubborn.reach("stopping");
        stubborn.signal(signal);
        stubborn.wait().assert_told(status, &[]);
        stage.assert_clean();
    }
}

#[test]
fn hangup_or_quit_ends_at_once_whatever_the_vm_is_doing() {
    let stage = Stage::new();
    let (hup, quit) = ((Signal::SIGHUP, 129), (Signal::SIGQUIT, 131));
    for (script, state, (signal, status)) in [
        ("started hang", "running", hup),
        ("hang", "starting", hup),
        ("started hang", "running", quit),
    ] {
        let vm = stage.start(script);
        vm.reach(state);
        let vmm = vm.vmm_pid();
        vm.signal(signal);
        vm.wait().assert_told(status, &[]);
        assert!(!is_alive(vmm));
        stage.assert_clean();
    }
}

#[test]
fn guest_that_does_not_power_off_in_time_is_ended_with_the_vm() {
    let stage = Stage::new();
    let limited = json!({"stop_timeout": 1});
    for by_signal in [true, false] {
        let vm = stage.start_with("started button hang", &limited);
        vm.reach("running");
        match by_signal {
            true => vm.signal(Signal::SIGTERM),
            false => assert_eq!(vm.request("PUT", "/v1/vm/stop", "{}").0, 200),
        }
        vm.wait().assert_told(0, &["did not power off within 1 s"]);
        stage.assert_clean();
    }
    let vm = stage.start("started button hang");
    vm.reach("running");
    let (status, fault) = vm.request("PUT", "/v1/vm/stop", r#"{"stop_timeout":0}"#);
    assert_eq!(status, 400);
    let told = fault["error"].as_str().unwrap();
    assert!(told.contains("stop-timeout \"0\": must be 1"), "{told}");
    assert_eq!(vm.info()["state"], "running");
    let (status, _) = vm.request("PUT", "/v1/vm/stop", r#"{"stop_timeout":1}"#);
    assert_eq!(status, 200);
    vm.wait().assert_told(0, &["did not power off within 1 s"]);
    stage.assert_clean();
}

#[test]
fn jailer_killed_takes_the_vmm_along_and_the_next_sweeps() {
    let stage = Stage::new();
    let vm = stage.start("started hang");
    vm.reach("running");
    let vmm = vm.vmm_pid();
    vm.signal(Signal::SIGKILL);
    vm.wait();
    eventually(|| (!is_alive(vmm)).then_some(()));
    stage
        .run("started off")
        .assert_told(0, &["name \"vm\": swept /", "dead VM"]);
    stage.assert_clean();

    let vm = stage.start("started hang");
    vm.reach("running");
    stage.sweep().assert_told(1, &["name \"vm\": is in use"]);
    vm.signal(Signal::SIGKILL);
    vm.wait();
    stage.sweep().assert_told(0, &["name \"vm\": swept /"]);
    stage.assert_clean();
    stage.sweep().assert_told(0, &[]);
}

/// What a process may write to the log, and how much of one that is too long is kept.
const LOG_MAX_BYTES: u64 = 256 << 20;
/// A longer log moves to the one before.
const LOG_ROTATED_BYTES: u64 = 4 << 20;
const LOG_KEPT_BYTES: u64 = 1 << 20;

#[test]
fn log_that_somebody_has_filled_ends_nobody() {
    let stage = Stage::new();
    let vm = stage.start("started console");
    let mut console = vm.connect("console.sock");
    vm.log().set_len(LOG_MAX_BYTES).unwrap();
    console.write_all(b"log=one-too-many\noff\n").unwrap();
    vm.wait().assert_told(0, &[]);
    stage.assert_clean();
}

#[test]
fn log_that_is_long_moves_to_the_one_before() {
    let stage = Stage::new();
    let vm = stage.start("log=the-beginning started console");
    let mut console = vm.connect("console.sock");
    vm.reach("running");
    let log = vm.log();
    log.set_len(LOG_ROTATED_BYTES + 1).unwrap();
    let old = || std::fs::read(stage.at("s/vm/log.old")).unwrap();
    eventually(|| (log.metadata().unwrap().len() < LOG_ROTATED_BYTES).then_some(()));
    assert!(old().len() as u64 > LOG_ROTATED_BYTES);
    let old = String::from_utf8(old()).unwrap();
    assert!(old.contains("the-beginning"));
    console.write_all(b"log=the-end\n").unwrap();
    let text = || std::fs::read_to_string(stage.at("s/vm/log")).unwrap();
    eventually(|| text().contains("the-end").then_some(()));
    assert!(text().contains("was rotated") && !text().contains("the-beginning"));
    console.write_all(b"off\n").unwrap();
    vm.wait().assert_told(0, &[]);
    stage.assert_clean();
}

#[test]
fn log_that_grows_without_end_is_cut_to_its_beginning() {
    let stage = Stage::new();
    let vm = stage.start("log=the-beginning started console");
    let mut console = vm.connect("console.sock");
    vm.reach("running");
    let log = vm.log();
    log.set_len(LOG_MAX_BYTES + 1).unwrap();
    let len = || log.metadata().unwrap().len();
    eventually(|| (len() <= LOG_KEPT_BYTES + 4096).then_some(()));
    console.write_all(b"log=the-end\n").unwrap();
    // The supervisor may cut the log between a look at its length and the read.
    let text = || {
        let mut bytes = vec![0; len().try_into().unwrap()];
        let read = log.read_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    };
    eventually(|| text().contains("the-end").then_some(()));
    assert!(text().contains("the-beginning"));
    assert!(text().contains("was cut"));
}

#[test]
fn readiness_is_told_once_the_guest_has_started() {
    let stage = Stage::new();
    let path = stage.at("notify");
    let ear = UnixDatagram::bind(&path).unwrap();
    ear.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = stage.spec("started hang", &json!({}));
    let mut command = stage.command(&config);
    let child = command.env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let vm = Running::of(child, stage.at("s/vm"));
    let mut message = [0; 64];
    let len = ear.recv(&mut message).unwrap();
    assert_eq!(&message[..len], b"READY=1");
    vm.reach("running");
}
