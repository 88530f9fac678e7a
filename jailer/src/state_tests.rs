// SPDX-License-Identifier: Apache-2.0
//! What a state directory must refuse, and what it must leave.

use super::*;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};

fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

fn refusal(base: &Path, vm: &str) -> String {
    StateDir::acquire(base, &name(vm)).unwrap_err().to_string()
}

#[test]
fn directory_is_private_while_held_and_gone_after() {
    let base = tempfile::tempdir().unwrap();
    let state = StateDir::acquire(base.path(), &name("a")).unwrap();
    state.write_spec(&VmSpec::new("/k")).unwrap();
    let _log = state.open_log().unwrap();
    let _api = state.listen(spec::state::API_SOCKET).unwrap();
    let mode = |file: &str| {
        fs::metadata(state.path().join(file))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("") & 0o777, 0o700);
    for file in [SPEC, LOG, spec::state::API_SOCKET] {
        assert_eq!(mode(file) & 0o777, 0o600, "{file}");
    }
    drop(state);
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
}

#[test]
fn name_in_use_is_refused_by_name() {
    let base = tempfile::tempdir().unwrap();
    let _held = StateDir::acquire(base.path(), &name("a")).unwrap();
    assert!(refusal(base.path(), "a").starts_with("name \"a\": is in use"));
    assert!(StateDir::acquire(base.path(), &name("b")).is_ok());
}

#[test]
fn remains_of_a_dead_vm_are_swept_and_told() {
    let base = tempfile::tempdir().unwrap();
    let dead = base.path().join("a");
    DirBuilder::new().mode(0o700).create(&dead).unwrap();
    fs::write(dead.join(SPEC), "{}").unwrap();
    drop(UnixListener::bind(dead.join(spec::state::API_SOCKET)).unwrap());
    let state = StateDir::acquire(base.path(), &name("a")).unwrap();
    assert!(state.swept());
    assert!(state.listen(spec::state::API_SOCKET).is_ok());
}

#[test]
fn directory_that_is_not_ours_is_refused_and_kept() {
    let base = tempfile::tempdir().unwrap();
    let at = |file: &str| base.path().join(file);
    let private = |file: &str| DirBuilder::new().mode(0o700).create(at(file)).unwrap();
    private("strange");
    fs::write(at("strange/thesis.tex"), "years of work").unwrap();
    fs::write(at("strange/log"), "a log").unwrap();
    fs::write(at("file"), "").unwrap();
    private("target");
    symlink(at("target"), at("link")).unwrap();
    DirBuilder::new().mode(0o755).create(at("open")).unwrap();
    fs::set_permissions(at("open"), Permissions::from_mode(0o755)).unwrap();
    for (vm, reason) in [
        ("strange", "thesis.tex"),
        ("file", "not a directory"),
        ("link", "not a directory"),
        ("open", "open to other users"),
    ] {
        let line = refusal(base.path(), vm);
        assert!(
            line.starts_with("state-dir ") && line.contains(reason),
            "{line}"
        );
    }
    for kept in ["strange/thesis.tex", "strange/log", "file", "link", "open"] {
        assert!(at(kept).symlink_metadata().is_ok(), "{kept}");
    }
}

#[test]
fn path_too_long_for_a_socket_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let long = base.path().join("x".repeat(64));
    fs::create_dir(&long).unwrap();
    assert!(refusal(&long, &"y".repeat(64)).contains("too long"));
}

#[test]
fn lock_on_a_directory_that_was_removed_meanwhile_is_not_taken_for_the_name() {
    let base = tempfile::tempdir().unwrap();
    let state = StateDir::acquire(base.path(), &name("a")).unwrap();
    fs::remove_dir(base.path().join("a")).unwrap();
    let fresh = StateDir::acquire(base.path(), &name("a")).unwrap();
    let of = |s: &StateDir| fstat(s.dir.as_fd()).unwrap().st_ino;
    assert_ne!(of(&state), of(&fresh));
    std::mem::forget(state);
}

#[test]
fn group_let_in_reaches_the_sockets_and_nothing_else() {
    let base = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let gid = nix::unistd::getegid().as_raw();
    fs::set_permissions(base.path(), Permissions::from_mode(0o700)).unwrap();
    let mut state = StateDir::acquire(base.path(), &name("a")).unwrap();
    let refused = state.open_to(gid, false).unwrap_err().to_string();
    assert!(
        refused.ends_with("cannot pass through it: chmod o+x"),
        "{refused}"
    );
    state.open_to(gid, true).unwrap();
    assert_eq!(mode(base.path()), 0o701);
    let _api = state.listen(spec::state::API_SOCKET).unwrap();
    let _log = state.open_log().unwrap();
    for (file, wanted) in [
        ("", 0o710),
        ("api.sock", 0o660),
        ("log", 0o600),
        ("log.old", 0o600),
    ] {
        let path = base.path().join("a").join(file);
        assert_eq!(mode(&path), wanted, "{file}");
        assert_eq!(fs::metadata(&path).unwrap().gid(), gid);
    }
}

#[test]
fn directory_of_a_group_is_swept_like_any_other() {
    let base = tempfile::tempdir().unwrap();
    let dir = base.path().join("a");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("log"), "").unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o710)).unwrap();
    assert!(StateDir::acquire(base.path(), &name("a")).unwrap().swept());
}
