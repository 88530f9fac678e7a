// SPDX-License-Identifier: Apache-2.0
//! The verbs that talk to VMs, and those that need none.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod stage;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use serde_json::Value;
use stage::{Running, Stage};

fn detached(stage: &Stage, script: &str, more: &[&str]) {
    let more = [&["--detach"], more].concat();
    stage.start(script, &more).wait().assert_told(0, &[]);
}

#[test]
fn vm_is_listed_shown_paused_resumed_and_stopped() {
    let stage = Stage::new();
    detached(&stage, "started button off", &[]);
    let listed = stage.do_it(&["ps"]).stdout;
    assert!(listed.contains("vm    running  1     16M"), "{listed}");
    let json: Value = serde_json::from_str(&stage.do_it(&["ps", "--json"]).stdout).unwrap();
    assert_eq!(json[0]["name"], "vm");
    let shown = stage.do_it(&["inspect", "vm"]).stdout;
    assert!(
        shown.contains("cmdline       started button off"),
        "{shown}"
    );
    for (verb, state) in [("pause", "paused"), ("resume", "running")] {
        stage.do_it(&[verb, "vm"]).assert_told(0, &[]);
        assert_eq!(stage.inspect().unwrap()["state"], state);
    }
    stage.do_it(&["stop", "vm"]).assert_told(0, &[]);
    // Its sockets go before its state directory.
    stage::eventually(|| (stage.do_it(&["ps"]).stdout.lines().count() == 1).then_some(()));
    assert!(stage.inspect().is_none());
}

#[test]
fn vm_that_is_not_there_is_named() {
    let stage = Stage::new();
    for verb in [
        "inspect", "stop", "pause", "resume", "console", "stats", "events", "logs",
    ] {
        let unknown = stage.do_it(&[verb, "nobody"]);
        unknown.assert_told(4, &["VM \"nobody\": there is no such VM in /"]);
    }
}

/// What a jailer that was killed leaves.
fn remains(stage: &Stage, mode: u32) {
    let dir = stage.at("s/dead");
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    drop(UnixListener::bind(dir.join("api.sock")).unwrap());
}

#[test]
fn vm_that_is_dead_is_swept_by_the_next_command_with_a_notice() {
    let stage = Stage::new();
    remains(&stage, 0o700);
    let listed = stage.do_it(&["ps"]);
    listed.assert_told(0, &["name \"dead\": swept /"]);
    assert_eq!(listed.stdout.lines().count(), 1);
    stage.assert_clean();

    remains(&stage, 0o700);
    let stopped = stage.do_it(&["stop", "dead"]);
    assert_eq!(stopped.status, Some(4));
    assert!(
        stopped
            .stderr
            .contains("VM \"dead\": its jailer was killed")
    );
    stage.assert_clean();
}

#[test]
fn directory_whose_jailer_died_before_it_bound_its_socket_is_swept() {
    let stage = Stage::new();
    remains(&stage, 0o700);
    let dir = stage.at("s/dead");
    fs::remove_file(dir.join("api.sock")).unwrap();
    fs::write(dir.join("log"), "").unwrap();
    let young = stage.do_it(&["ps"]);
    assert!(young.stdout.contains("dead  starting"), "{young:?}");
    let then = SystemTime::now() - Duration::from_secs(60);
    let opened = fs::File::open(&dir).unwrap();
    opened.set_modified(then).unwrap();
    stage
        .do_it(&["ps"])
        .assert_told(0, &["name \"dead\": swept /"]);
    stage.assert_clean();
}

#[test]
fn what_looks_like_a_dead_vm_and_is_not_is_kept_and_listed() {
    let stage = Stage::new();
    remains(&stage, 0o755);
    let listed = stage.do_it(&["ps"]);
    listed.assert_told(0, &["state-dir", "open to other users"]);
    assert!(listed.stdout.contains("dead  dead"), "{listed:?}");
    assert!(stage.at("s/dead").exists());
}

#[test]
fn refusal_of_the_vm_is_told() {
    let stage = Stage::new();
    let _vm = stage.start("hang", &[]);
    stage.reach("starting");
    stage
        .do_it(&["pause", "vm"])
        .assert_told(5, &["VM \"vm\": the guest has not started"]);
}

#[test]
fn guest_that_is_paused_is_not_asked_to_power_off_but_a_signal_wakes_it() {
    let stage = Stage::new();
    let vm = stage.start("started button off", &["--console=none"]);
    stage.reach("running");
    stage.do_it(&["pause", "vm"]).assert_told(0, &[]);
    let refused = stage.do_it(&["stop", "vm"]);
    refused.assert_told(5, &["the guest is paused", "resume it first"]);
    assert_eq!(stage.inspect().unwrap()["state"], "paused");
    vm.signal(Signal::SIGTERM);
    vm.wait().assert_told(0, &[]);
    stage.assert_clean();
}

#[test]
fn guest_that_is_paused_is_stopped_by_force() {
    let stage = Stage::new();
    detached(&stage, "started button off", &[]);
    stage.do_it(&["pause", "vm"]).assert_told(0, &[]);
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
    stage.assert_clean();
}

#[test]
fn events_are_told_and_followed_to_the_end() {
    let stage = Stage::new();
    detached(&stage, "started button off", &[]);
    let mut follower = Running(stage.bulkhead(&["events", "vm", "-f"]).spawn().unwrap());
    for verb in ["pause", "resume"] {
        stage.do_it(&[verb, "vm"]).assert_told(0, &[]);
    }
    let told = stage.do_it(&["events", "vm", "--json"]);
    told.assert_told(0, &[]);
    let kinds = told.stdout.lines().map(|line| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["kind"].as_str().unwrap().to_owned()
    });
    assert_eq!(kinds.collect::<Vec<_>>(), ["started", "paused", "resumed"]);
    assert!(follower.0.try_wait().unwrap().is_none());
    stage.do_it(&["stop", "vm"]).assert_told(0, &[]);
    let followed = follower.wait();
    followed.assert_told(0, &[]);
    let lines: Vec<_> = followed.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{followed:?}");
    for (line, kind) in lines.iter().zip(["started", "paused", "resumed", "ended"]) {
        assert!(line.ends_with(&format!("Z  -         {kind}")), "{line}");
    }
}

#[test]
fn group_gets_the_sockets_of_a_vm_and_a_wrong_one_is_told() {
    let stage = Stage::new();
    fs::create_dir(stage.at("s")).unwrap();
    fs::set_permissions(stage.at("s"), fs::Permissions::from_mode(0o711)).unwrap();
    let gid = nix::unistd::getegid().to_string();
    detached(&stage, "started button off", &["--api-gid", &gid]);
    for (file, wanted) in [("", 0o710), ("api.sock", 0o660), ("console.sock", 0o660)] {
        let found = fs::metadata(stage.at("s/vm").join(file)).unwrap();
        assert_eq!(found.permissions().mode() & 0o777, wanted, "{file}");
    }
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
    let wrong = stage.do_it(&["run", "--kernel=kernel", "--api-gid=kvm"]);
    wrong.assert_told(2, &["'kvm'", "--api-gid"]);
}

#[test]
fn name_in_use_is_told_by_the_jailer() {
    let stage = Stage::new();
    detached(&stage, "started hang", &[]);
    let second = stage.start("started off", &[]).wait();
    second.assert_told(1, &["jailer: name \"vm\": is in use"]);
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}

#[test]
fn console_relays_until_the_vm_ends_and_refuses_a_second() {
    let stage = Stage::new();
    detached(&stage, "started say=hello console", &[]);
    let mut command = stage.bulkhead(&["console", "vm"]);
    let mut console = Running(command.stdin(Stdio::piped()).spawn().unwrap());
    let mut seen = [0; 5];
    let stdout = console.0.stdout.as_mut().unwrap();
    std::io::Read::read_exact(stdout, &mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    let second = stage.do_it(&["console", "vm"]);
    second.assert_told(5, &["VM \"vm\": the console is in use"]);
    console.type_in("say=again\noff\n");
    let ended = console.wait();
    ended.assert_told(0, &[]);
    assert_eq!(ended.stdout, "again");
}

#[test]
fn console_elsewhere_is_named() {
    let stage = Stage::new();
    for (console, part) in [
        ("none", "its console leads to none"),
        ("pty", "its console is the terminal /dev/pts/"),
    ] {
        let vm = stage.start("started hang", &["--console", console]);
        stage.reach("running");
        let ended = stage.do_it(&["console", "vm"]);
        ended.assert_told(5, &[part]);
        stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
        vm.wait();
    }
}

#[test]
fn document_is_checked_without_starting_anything() {
    let stage = Stage::new();
    for (text, status, parts) in [
        (r#"{"kernel":"/nowhere"}"#, 0, &[][..]),
        (r#"{"kernel":"k","mem":"0"}"#, 1, &["vm.json", "mem \"0\""]),
        (
            r#"{"kernel":"k","memory":"1G"}"#,
            1,
            &["vm.json", "`memory`"],
        ),
        ("{", 1, &["vm.json", "EOF"]),
    ] {
        fs::write(stage.at("vm.json"), text).unwrap();
        stage
            .do_it(&["check", "vm.json"])
            .assert_told(status, parts);
    }
}

#[test]
fn schema_is_json_and_has_every_field_of_a_spec() {
    let stage = Stage::new();
    let schema: Value = serde_json::from_str(&stage.do_it(&["schema"]).stdout).unwrap();
    let spec = serde_json::to_value(spec::VmSpec::new("/k")).unwrap();
    for field in spec.as_object().unwrap().keys() {
        assert!(schema["properties"][field].is_object(), "{field}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn completions_know_every_verb() {
    let stage = Stage::new();
    for shell in ["bash", "zsh", "fish"] {
        let ended = stage.do_it(&["completions", shell]);
        ended.assert_told(0, &[]);
        for verb in ["run", "stats", "upgrade"] {
            assert!(ended.stdout.contains(verb), "{shell}: {verb}");
        }
    }
    let wrong = stage.do_it(&["completions", "tcsh"]);
    wrong.assert_told(2, &["'tcsh'", "bash"]);
}

#[test]
fn man_pages_are_written_for_every_verb() {
    let stage = Stage::new();
    stage.do_it(&["man", "pages"]).assert_told(0, &[]);
    for page in ["bulkhead.1", "bulkhead-run.1", "bulkhead-top.1"] {
        let text = fs::read_to_string(stage.at("pages").join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let run = fs::read_to_string(stage.at("pages/bulkhead-run.1")).unwrap();
    assert!(run.contains("api\\-gid"), "{run}");
    let wrong = stage.do_it(&["man", "kernel"]);
    wrong.assert_told(1, &["man \"kernel\": "]);
}

#[test]
fn top_without_a_terminal_is_refused_with_the_remedy() {
    let stage = Stage::new();
    let refused = stage.do_it(&["top"]);
    refused.assert_told(1, &["top needs a terminal", "stats"]);
}

#[test]
fn reader_that_has_seen_enough_is_no_error() {
    let stage = Stage::new();
    let mut command = stage.bulkhead(&["schema"]);
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    Running(child).wait().assert_told(0, &[]);
}
