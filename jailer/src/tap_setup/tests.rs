// SPDX-License-Identifier: Apache-2.0
//! What is refused without touching the host, and the undo log. Taps themselves are tested end to end, in
//! network namespaces.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use spec::VmSpec;
use spec::state::DEBTS;

fn vm(net: &str) -> Vm {
    let mut spec = VmSpec::new("/k");
    spec.nets = vec![net.parse().unwrap()];
    Vm::try_from(spec).unwrap()
}

fn errors(net: &str) -> Vec<String> {
    let mut errors = Vec::new();
    open_all(&vm(net), BTreeMap::new(), &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

/// A program that notes its argument in `noted`.
fn noting(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (program, noted) = (dir.join("program"), dir.join("noted"));
    fs::write(
        &program,
        format!("#!/bin/sh\necho \"$1\" >> {}\n", noted.display()),
    )
    .unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (program, noted)
}

#[test]
fn tap_whose_name_another_kind_of_interface_has_is_refused_with_its_bridge_and_its_scripts() {
    let errors = errors("tap=lo,bridge=lo,up=/nonexistent,down=/dev/null");
    let begins = [
        "net.up \"/nonexistent\": No such file",
        "net.down \"/dev/null\": is not executable",
        "net.bridge \"lo\": is not a bridge",
        "net.tap \"lo\": ",
    ];
    assert_eq!(errors.len(), begins.len(), "{errors:?}");
    for (error, begin) in errors.iter().zip(begins) {
        assert!(error.starts_with(begin), "{error}");
    }
}

#[test]
fn descriptor_that_was_not_inherited_is_refused_by_its_number() {
    let errors = errors("fd=5000,fd=5001");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("net.fd \"5000\": no descriptor of this"));
}

#[test]
fn bridge_that_does_not_exist_is_refused_with_the_remedy() {
    let NetKind::Tap(tap) = &vm("tap=t,bridge=no-such-bridge").nets[0].kind.clone() else {
        panic!("is a tap");
    };
    let error = check_bridge(tap).unwrap_err();
    assert!(error.reason.contains("ip link add"), "{error}");
}

#[test]
fn debts_are_settled_when_dropped_the_last_first() {
    let dir = tempfile::tempdir().unwrap();
    let (program, noted) = noting(dir.path());
    let mut undo_log = UndoLog::new(File::open(dir.path()).unwrap());
    for tap in ["a", "b"] {
        undo_log
            .add(UndoEntry::Script(tap.into(), program.clone()))
            .unwrap();
    }
    assert!(!noted.exists());
    drop(undo_log);
    assert_eq!(fs::read_to_string(noted).unwrap(), "b\na\n");
}

#[test]
fn debts_of_a_killed_jailer_are_settled_by_who_finds_them() {
    let dir = tempfile::tempdir().unwrap();
    let (program, noted) = noting(dir.path());
    let mut undo_log = UndoLog::new(File::open(dir.path()).unwrap());
    undo_log
        .add(UndoEntry::Script("a".into(), program))
        .unwrap();
    // Of a tap that is gone nothing is owed any more.
    undo_log
        .add(UndoEntry::Mtu("no-such-tap".into(), 1500))
        .unwrap();
    undo_log
        .add(UndoEntry::Port("no-such-tap".into(), "br0".into()))
        .unwrap();
    undo_log.add(UndoEntry::Up("no-such-tap".into())).unwrap();
    std::mem::forget(undo_log);
    undo(File::open(dir.path()).unwrap());
    assert_eq!(fs::read_to_string(noted).unwrap(), "a\n");
}

#[test]
fn debts_that_make_no_sense_are_no_reason_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    undo(File::open(dir.path()).unwrap());
    fs::write(dir.path().join(DEBTS), "[{\"rob\":[\"bank\"]}]").unwrap();
    undo(File::open(dir.path()).unwrap());
}
