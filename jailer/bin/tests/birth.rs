// SPDX-License-Identifier: Apache-2.0
//! What a vmm is born with, and what is refused before one is born.

mod stage;

use std::fs;

use serde_json::json;
use stage::{Stage, descriptors};

#[test]
fn vmm_has_exactly_its_descriptors() {
    for with_initrd in [false, true] {
        // Each its own: a VM of the same name may answer for a moment after its jailer was killed.
        let stage = Stage::new();
        let initrd = stage.at("initrd");
        let change = match with_initrd {
            true => json!({"initrd": initrd}),
            false => json!({}),
        };
        let vm = stage.start_with("started hang", &change);
        vm.reach("running");
        let found = descriptors(vm.vmm_pid());
        let begins = [
            (0, "/dev/null".into()),
            (1, "/dev/null".into()),
            (2, stage.at("s/vm/log").display().to_string()),
            // 3, the record, was read and closed.
            (4, "socket:".into()),
            (6, "/dev/kvm".into()),
            (7, "/memfd:guest-ram".into()),
            (8, stage.at("kernel").display().to_string()),
            (9, initrd.display().to_string()),
            (10, "socket:".into()),
        ];
        let has_initrd = change.get("initrd").is_some();
        let wanted: Vec<_> = begins
            .into_iter()
            .filter(|(number, _)| *number != 9 || has_initrd)
            .collect();
        let numbers: Vec<_> = wanted.iter().map(|(number, _)| number).collect();
        // 5, the health page, is mapped and closed.
        assert_eq!(found.keys().collect::<Vec<_>>(), numbers, "{found:?}");
        for (number, begin) in &wanted {
            assert!(found[number].starts_with(begin), "{number}: {found:?}");
        }
    }
}

#[test]
fn vmm_has_no_environment_no_blocked_signals_and_a_session_of_its_own() {
    let stage = Stage::new();
    let vm = stage.start("started hang");
    vm.reach("running");
    let pid = vm.vmm_pid();
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert_eq!(read("environ"), "");
    assert_eq!(read("cmdline"), "vmm\0");
    let status = read("status");
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    // Rust's start-up ignores SIGPIPE, the supervisor SIGXFSZ, and nobody anything else.
    assert!(status.contains("SigIgn:\t0000000001001000"), "{status}");
    let stat = read("stat");
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap();
    assert_eq!(session, pid.to_string());
}

#[test]
fn spec_that_is_wrong_is_refused_by_field_and_value() {
    let stage = Stage::new();
    let large = fs::File::create(stage.at("large")).unwrap();
    large.set_len(16 << 20).unwrap();
    fs::write(stage.at("empty"), "").unwrap();
    for (change, parts) in [
        (
            json!({"cpu_count": 2}),
            &["vm.json", "unknown field `cpu_count`"][..],
        ),
        (json!({"cpus": "two"}), &["vm.json", "cpus: invalid type"]),
        (json!({"cpus": 0}), &["cpus \"0\": must be"]),
        (json!({"mem": 0}), &["mem \"0\": must be"]),
        (
            json!({"mem": "15T"}),
            &["mem \"15T\": is more than this host"],
        ),
        (
            json!({"kernel": "/nowhere"}),
            &["kernel \"/nowhere\": No such"],
        ),
        (
            json!({"kernel": stage.at("empty")}),
            &["kernel \"", "is empty"],
        ),
        (
            json!({"initrd": stage.at("large")}),
            &["initrd \"", "mem 16M"],
        ),
        (
            json!({"console": "file=/nowhere/x"}),
            &["console \"file=/nowhere/x\""],
        ),
        (
            json!({"hugepages": "1G", "mem": "4096G"}),
            &["mem \"4T\": is more than this host"],
        ),
    ] {
        let ended = stage.start_with("started off", &change).wait();
        ended.assert_told(1, parts);
        stage.assert_clean();
    }
}

#[test]
fn faults_are_told_all_together() {
    let stage = Stage::new();
    let change = json!({"kernel": "/nowhere", "initrd": "/nor/here", "console": "file=/x/y"});
    let ended = stage.start_with("", &change).wait();
    assert_eq!(ended.status, Some(1));
    assert_eq!(ended.stderr.lines().count(), 3, "{}", ended.stderr);
    stage.assert_clean();
}

#[test]
fn name_in_use_is_refused_and_its_owner_goes_on() {
    let stage = Stage::new();
    let vm = stage.start("started button off");
    vm.reach("running");
    stage
        .run("started off")
        .assert_told(1, &["name \"vm\": is in use"]);
    assert_eq!(vm.info()["state"], "running");
}

#[test]
fn directory_that_is_no_state_is_refused_and_kept() {
    let stage = Stage::new();
    let precious = stage.at("s/vm/thesis.tex");
    fs::create_dir_all(precious.parent().unwrap()).unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(stage.at("s/vm"), private).unwrap();
    fs::write(&precious, "years of work").unwrap();
    let ended = stage.run("started off");
    ended.assert_told(1, &["state-dir \"", "holds \"thesis.tex\""]);
    assert!(precious.exists());
}

#[test]
fn command_line_wrong_is_a_usage_error() {
    let stage = Stage::new();
    let config = stage.spec("", &json!({}));
    for extra in [&["--frobnicate"][..], &["--console-fd", "2"], &["--config"]] {
        let output = stage.command(&config).args(extra).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
    }
}
