// SPDX-License-Identifier: Apache-2.0
//! What a VM has done, as `bulkhead stats` tells it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod stage;

use std::process::Stdio;

use serde_json::Value;
use stage::{Running, Stage, eventually};

fn detached(stage: &Stage, script: &str) {
    stage
        .start(script, &["--detach"])
        .wait()
        .assert_told(0, &[]);
}

fn stats(stage: &Stage) -> Value {
    let ended = stage.do_it(&["stats", "vm", "--json"]);
    ended.assert_told(0, &[]);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn stats_have_what_the_vm_and_what_the_host_knows() {
    let stage = Stage::new();
    detached(&stage, "exits=5 started button off");
    let stats = stats(&stage);
    assert_eq!(stats["name"], "vm");
    assert_eq!(
        (&stats["state"], &stats["exits"]["pio"]),
        (&"running".into(), &5.into())
    );
    let processes = stats["processes"].as_array().unwrap();
    let roles: Vec<_> = processes
        .iter()
        .map(|p| p["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["jailer", "supervisor", "vmm"]);
    for process in processes {
        assert!(process["cpu_ns"].is_u64(), "{process}");
        assert!(process["rss_bytes"].as_u64().unwrap() > 0, "{process}");
        assert!(process["sandbox"]["uid"].is_u64(), "{process}");
    }
    assert_eq!(processes[2]["sandbox"]["pid_namespace"], true);

    let table = stage.do_it(&["stats", "vm"]).stdout;
    assert!(table.contains("pio exits   5\n"), "{table}");
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}

#[test]
fn counters_go_on_after_the_guest_has_rebooted() {
    let stage = Stage::new();
    detached(&stage, "exits=5 started console");
    let mut command = stage.bulkhead(&["console", "vm"]);
    let mut console = Running(command.stdin(Stdio::piped()).spawn().unwrap());
    console.type_in("exits=2\nreboot\n");
    let stats = eventually(|| Some(stats(&stage)).filter(|s| s["exits"]["pio"] == 12));
    assert_eq!(stats["reboots"], 1);
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}

#[test]
fn stats_for_prometheus_are_of_one_vm_or_of_all() {
    let stage = Stage::new();
    let none = stage.do_it(&["stats", "--prometheus"]);
    none.assert_told(0, &[]);
    assert_eq!(none.stdout, "");
    assert_eq!(stage.do_it(&["stats", "--json"]).stdout, "[]\n");

    detached(&stage, "started button off");
    for args in [
        &["stats", "--prometheus"][..],
        &["stats", "vm", "--prometheus"],
    ] {
        let ended = stage.do_it(args);
        ended.assert_told(0, &[]);
        let sample = "bulkhead_vm_process_cpu_seconds_total{vm=\"vm\",process=\"vmm\"} ";
        assert!(ended.stdout.contains(sample), "{ended:?}");
    }
    stage.do_it(&["stop", "vm", "--force"]).assert_told(0, &[]);
}

#[test]
fn stats_in_two_forms_at_once_are_a_mistake() {
    let stage = Stage::new();
    let both = stage.do_it(&["stats", "vm", "--json", "--prometheus"]);
    both.assert_told(2, &["--json", "--prometheus"]);
}
