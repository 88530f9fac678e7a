// SPDX-License-Identifier: Apache-2.0
//! What is kept of a VM that has ended, and what programs are told: exit statuses and JSON.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod stage;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use stage::{Ended, Stage};

fn of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"))
}

/// How the VM has ended, as `inspect` shows it.
fn end(stage: &Stage) -> Value {
    let shown = stage.do_it(&["inspect", "vm", "--json"]);
    shown.assert_told(4, &[]);
    let shown = of(&shown);
    assert_eq!(shown["state"], "ended");
    shown
}

const EXIT: &[&str] = &["--on-reboot=exit"];
/// What the fake vmm does, further flags, and how that ends the VM.
type End = (
    &'static str,
    &'static [&'static str],
    i32,
    &'static str,
    &'static str,
);
const ENDS: [End; 8] = [
    ("started off", &[], 0, "power-off", ""),
    ("started reboot", EXIT, 0, "reboot", ""),
    (
        "started panic",
        &[],
        3,
        "panic",
        "the guest's kernel panicked",
    ),
    (
        "started crash",
        &[],
        3,
        "crash",
        "the guest crashed: a state that KVM cannot run",
    ),
    (
        "started reboot",
        &[],
        3,
        "reboot-storm",
        "a reboot loop: 5 resets",
    ),
    (
        "started fault",
        EXIT,
        3,
        "crash",
        "the guest crashed: a triple fault",
    ),
    (
        "fail=kernel",
        &[],
        1,
        "host-error",
        "kernel \"kernel\": is not",
    ),
    (
        "started abort",
        &[],
        1,
        "host-error",
        "the vmm was killed by ",
    ),
];

#[test]
fn each_way_to_end_is_kept_until_the_next_vm_of_that_name() {
    let stage = Stage::new();
    for (script, flags, status, reason, detail) in ENDS {
        let ended = stage.start(script, flags).wait();
        assert_eq!(ended.status, Some(status), "{ended:?}");
        let kept = end(&stage);
        assert_eq!(
            (&kept["reason"], &kept["status"]),
            (&json!(reason), &json!(status))
        );
        assert!(
            kept["detail"].as_str().unwrap().starts_with(detail),
            "{kept}"
        );
        assert!(kept["started_unix_s"].as_u64() <= kept["ended_unix_s"].as_u64());
        stage.assert_clean();
    }
    let vm = stage.start("started hang", &["--console=none"]);
    stage.reach("running");
    let all = of(&stage.do_it(&["ps", "--all", "--json"]));
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
    vm.wait().assert_told(0, &[]);
    assert_eq!(end(&stage)["reason"], "force");
}

#[test]
fn end_by_a_signal_or_a_timeout_or_of_the_supervisor_has_its_reason() {
    let stage = Stage::new();
    let vm = stage.start("started hang", &["--console=none", "--stop-timeout=1"]);
    stage.reach("running");
    vm.signal(Signal::SIGTERM);
    assert_eq!(vm.wait().status, Some(0));
    assert_eq!(end(&stage)["reason"], "timeout");

    let vm = stage.start("started hang", &["--console=none"]);
    stage.reach("running");
    vm.signal(Signal::SIGQUIT);
    assert_eq!(vm.wait().status, Some(131));
    let kept = end(&stage);
    assert_eq!(
        (&kept["reason"], &kept["status"]),
        (&json!("signal"), &json!(131))
    );

    let vm = stage.start("started hang", &["--console=none"]);
    let info = stage.reach("running");
    let of_role = |role: &str| {
        let mut all = info["processes"].as_array().unwrap().iter();
        let found = all.find(|process| process["role"] == role).unwrap();
        nix::unistd::Pid::from_raw(i32::try_from(found["pid"].as_i64().unwrap()).unwrap())
    };
    nix::sys::signal::kill(of_role("supervisor"), Signal::SIGKILL).unwrap();
    assert_eq!(vm.wait().status, Some(1));
    let kept = end(&stage);
    assert_eq!(kept["reason"], "host-error");
    let detail = kept["detail"].as_str().unwrap();
    assert!(
        detail.contains("the supervisor was killed by SIGKILL"),
        "{kept}"
    );
}

#[test]
fn vm_whose_start_is_refused_leaves_what_is_kept_of_the_one_before() {
    let stage = Stage::new();
    stage.start("started panic", &[]).wait();
    let refused = stage.start("started off", &["--cpus=0"]).wait();
    assert_eq!(refused.status, Some(2));
    let refused = stage.start("started off", &["--disk=path=nowhere"]).wait();
    assert_eq!(refused.status, Some(1));
    assert_eq!(end(&stage)["reason"], "panic");
}

#[test]
fn end_is_listed_shown_and_taken_by_who_waits() {
    let stage = Stage::new();
    stage.start("started panic", &[]).wait();
    assert!(!stage.do_it(&["ps"]).stdout.contains("vm"));
    let listed = stage.do_it(&["ps", "--all"]).stdout;
    assert!(listed.contains("AGE  ENDED BY\n"), "{listed}");
    assert!(
        listed.contains("vm    ended  -     -    -    -    panic\n"),
        "{listed}"
    );
    let shown = stage.do_it(&["inspect", "vm"]);
    shown.assert_told(4, &[]);
    for line in ["state    ended\n", "reason   panic\n", "status   3\n"] {
        assert!(shown.stdout.contains(line), "{shown:?}");
    }
    // It is a VM no more for verbs that need one.
    stage
        .do_it(&["stop", "vm"])
        .assert_told(4, &["VM \"vm\": there is no such VM"]);
    let waited = stage.do_it(&["wait", "vm"]);
    waited.assert_told(0, &[]);
    assert_eq!(waited.stdout, "panic: the guest's kernel panicked\n");
    stage
        .do_it(&["wait", "vm", "--json"])
        .assert_told(4, &["\"kind\":\"no-such-vm\""]);
    assert_eq!(of(&stage.do_it(&["ps", "--all", "--json"])), json!([]));
}

#[test]
fn statuses_tell_no_vm_from_one_that_refuses_and_one_that_cannot_be_asked() {
    let stage = Stage::new();
    let error = |args: &[&str], status: i32, kind: &str| {
        let args = [args, &["--json"]].concat();
        let ended = stage.do_it(&args);
        ended.assert_told(status, &["\"error\":"]);
        let told: Value = serde_json::from_str(&ended.stderr).unwrap();
        assert_eq!(
            (&told["status"], &told["kind"]),
            (&json!(status), &json!(kind))
        );
    };
    error(&["inspect", "vm"], 4, "no-such-vm");
    let vm = stage.start("hang", &["--console=none"]);
    stage.reach("starting");
    error(&["pause", "vm"], 5, "refused");
    error(&["console", "vm", "--log"], 5, "refused");
    // A socket that nobody may use, and one that answers rubbish.
    let dir = stage.at("s/odd");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    let rude = std::os::unix::net::UnixListener::bind(dir.join("api.sock")).unwrap();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = rude.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"What?").unwrap();
    });
    error(&["inspect", "odd"], 6, "cannot-ask");
    answers.join().unwrap();
    fs::remove_dir_all(&dir).unwrap();
    error(&["top"], 2, "usage");
    error(&["console", "vm"], 2, "usage");
    error(&["check", "nowhere"], 1, "failed");
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
    vm.wait();
}

#[test]
fn every_verb_for_programs_prints_json() {
    let stage = Stage::new();
    let run = stage.start("started say=hello button off", &["--detach", "--json"]);
    assert_eq!(of(&run.wait()), json!({"vm": "vm", "verb": "run"}));
    let acted = |verb: &str| json!({"vm": "vm", "verb": verb});
    for (args, wanted) in [
        (&["pause", "vm"][..], acted("pause")),
        (&["resume", "vm"], acted("resume")),
        (&["wait", "vm", "--for=running"], acted("wait")),
        (&["wait", "vm", "--for=console=hello"], acted("wait")),
        (
            &["console", "vm", "--log"],
            json!({"vm": "vm", "console": "hello"}),
        ),
    ] {
        let args = [args, &["--json"]].concat();
        assert_eq!(of(&stage.do_it(&args)), wanted);
    }
    let stopping = of(&stage.do_it(&["stop", "vm", "--json"]));
    assert!(stopping["button"].is_string(), "{stopping}");
    let waited = of(&stage.do_it(&["wait", "vm", "--json"]));
    assert_eq!(
        (&waited["state"], &waited["reason"]),
        (&json!("ended"), &json!("power-off"))
    );
    fs::write(stage.at("vm.json"), r#"{"kernel":"k"}"#).unwrap();
    let checked = of(&stage.do_it(&["check", "vm.json", "--json"]));
    let placed = json!({"config": "vm.json", "ok": true, "name": null, "cpus": 1, "mem_mib": 512});
    assert_eq!(checked, placed);
    let doctor = of(&stage.do_it(&["doctor", "--json"]));
    assert!(doctor["host"].as_array().unwrap().len() > 5, "{doctor}");
    let refused = stage.do_it(&["run", "--kernel=k", "--json"]);
    refused.assert_told(2, &["run --detach --json"]);
}
