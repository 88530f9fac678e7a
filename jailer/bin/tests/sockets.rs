// SPDX-License-Identifier: Apache-2.0
//! The API, and the console in each of its forms.

mod stage;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};
use stage::{PATIENCE, Running, Stage, eventually};

#[test]
fn api_shows_the_vm_and_its_processes() {
    let stage = Stage::new();
    let vm = stage.start("started button off");
    vm.reach("running");
    let info = vm.info();
    assert_eq!(info["name"], "vm");
    assert_eq!(info["spec"]["mem"], "16M");
    assert_eq!(info["cmdline"], "started button off");
    assert_eq!(info["processes"][0]["pid"], vm.pid());
    assert_eq!(info["processes"][2]["role"], "vmm");
    let spec: Value = serde_json::from_slice(&fs::read(stage.at("s/vm/vm.json")).unwrap()).unwrap();
    assert_eq!(spec, info["spec"]);
}

#[test]
fn pause_and_resume_are_answered_when_done() {
    let stage = Stage::new();
    let vm = stage.start("started button off");
    vm.reach("running");
    for (verb, state) in [
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "running"),
    ] {
        let (status, _) = vm.request("PUT", &format!("/v1/vm/{verb}"), "");
        assert_eq!(status, 204);
        assert_eq!(vm.info()["state"], state);
    }
}

#[test]
fn pause_of_a_vmm_that_does_not_answer_fails_in_time() {
    let stage = Stage::new();
    let vm = stage.start("started hang");
    vm.reach("running");
    let (status, fault) = vm.request("PUT", "/v1/vm/pause", "");
    assert_eq!(
        (status, &fault["error"]),
        (504, &json!("the vmm does not answer"))
    );
    let starting = stage.start_with("hang", &json!({"name": "other"}));
    assert_eq!(starting.request("PUT", "/v1/vm/pause", "").0, 409);
}

#[test]
fn stop_presses_the_button_or_ends_at_once() {
    let stage = Stage::new();
    for (script, body) in [
        ("started button off", ""),
        ("started button off", r#"{"force":false}"#),
        ("started hang", r#"{"force":true}"#),
    ] {
        let vm = stage.start(script);
        vm.reach("running");
        assert_eq!(vm.request("PUT", "/v1/vm/stop", body).0, 200);
        vm.wait().assert_told(0, &[]);
        stage.assert_clean();
    }
}

#[test]
fn request_refused_has_a_fault() {
    let stage = Stage::new();
    let vm = stage.start("started hang");
    for (method, target, body, status) in [
        ("GET", "/v2/vm", "", 404),
        ("DELETE", "/v1/vm", "", 405),
        ("PUT", "/v1/vm/stop", "{", 400),
        ("PUT", "/v1/vm/stop", &" ".repeat(65 << 10), 413),
    ] {
        let (found, fault) = vm.request(method, target, body);
        assert_eq!(found, status);
        assert!(fault["error"].is_string(), "{fault}");
    }
}

#[test]
fn console_relays_both_ways_and_refuses_a_second_client() {
    let stage = Stage::new();
    let vm = stage.start("started say=hello console");
    let named = vm.info()["console_socket"].clone();
    let mut console = UnixStream::connect(named.as_str().unwrap()).unwrap();
    let mut seen = [0; 5];
    console.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    let mut second = String::new();
    let mut late = vm.connect("console.sock");
    late.read_to_string(&mut second).unwrap();
    assert!(second.contains("in use"), "{second}");
    console.write_all(b"say=again\noff\n").unwrap();
    let mut rest = String::new();
    console.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "again");
    vm.wait().assert_told(0, &[]);
}

#[test]
fn first_client_inherited_misses_nothing_of_a_guest_that_ends_at_once() {
    let stage = Stage::new();
    let (ours, its) = UnixStream::pair().unwrap();
    fcntl(&its, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let len = 1 << 20;
    let config = stage.spec(&format!("started flood={len} off"), &json!({}));
    let mut command = stage.command(&config);
    command.arg("--console-fd").arg(its.as_raw_fd().to_string());
    let vm = Running::of(command.spawn().unwrap(), stage.at("s/vm"));
    drop(its);
    let mut output = String::new();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    (&ours).read_to_string(&mut output).unwrap();
    assert_eq!(output.len(), len);
    let numbers = output.lines().map(|line| line.parse::<usize>().unwrap());
    assert!(numbers.eq(0..len / 16));
    vm.wait().assert_told(0, &[]);
}

#[test]
fn console_file_is_appended_to() {
    let stage = Stage::new();
    fs::write(stage.at("out"), "before ").unwrap();
    let console = format!("file={}", stage.at("out").display());
    let vm = stage.start_with("started say=after off", &json!({"console": console}));
    vm.wait().assert_told(0, &[]);
    assert_eq!(fs::read_to_string(stage.at("out")).unwrap(), "before after");
}

#[test]
fn console_pty_is_named_and_works_both_ways() {
    let stage = Stage::new();
    let vm = stage.start_with("started console", &json!({"console": "pty"}));
    let info = vm.info();
    let path = info["pty"].as_str().unwrap();
    assert!(info.get("console_socket").is_none(), "{info}");
    let mut terminal = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    terminal.write_all(b"say=hello\n").unwrap();
    let mut seen = [0; 5];
    terminal.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    terminal.write_all(b"off\n").unwrap();
    let ended = vm.wait();
    ended.assert_told(0, &["console \"pty\": is /dev/pts/"]);
}

#[test]
fn console_none_drops_the_output() {
    let stage = Stage::new();
    let vm = stage.start_with("started say=lost off", &json!({"console": "none"}));
    vm.wait().assert_told(0, &[]);
}

#[test]
fn clients_that_say_nothing_do_not_keep_others_from_being_served() {
    let stage = Stage::new();
    let vm = stage.start("started hang");
    vm.reach("running");
    let _silent: Vec<_> = (0..15).map(|_| vm.connect("api.sock")).collect();
    assert_eq!(vm.info()["state"], "running");
    let _one_more = vm.connect("api.sock");
    let (status, _) = vm.request("GET", "/v1/vm", "");
    assert_eq!(status, 503);
    eventually(|| (vm.request("GET", "/v1/vm", "").0 == 200).then_some(()));
}
