// SPDX-License-Identifier: Apache-2.0
//! Devices that cannot be had, and how it is said.

use super::*;
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use spec::{DiskEngine, DiskSpec, VhostUserSpec, VmSpec};

use crate::opening::Opening;

fn host() -> Host {
    // Any regular file will do as a program that is not started.
    Host {
        blk: std::env::current_exe().unwrap(),
        ..Host::of_this_binary()
    }
}

fn errors(change: impl FnOnce(&mut VmSpec)) -> Vec<String> {
    let mut spec = VmSpec::new("/k");
    change(&mut spec);
    let vm = Vm::try_from(spec).unwrap();
    let mut errors = Vec::new();
    let opening = Opening::begin(&vm).unwrap();
    Devices::open(&vm, &host(), BTreeMap::new(), &mut errors);
    let signals = SignalFd::with_flags(&SigSet::empty(), SfdFlags::SFD_NONBLOCK).unwrap();
    opening.finish(&signals, &mut errors).unwrap();
    let errors = errors.iter().filter(|error| error.field != "kernel");
    errors.map(ToString::to_string).collect()
}

fn threads(path: &Path) -> DiskSpec {
    DiskSpec {
        engine: DiskEngine::Threads,
        ..DiskSpec::new(path)
    }
}

#[test]
fn images_wrong_in_any_way_are_all_told_with_their_paths() {
    let dir = tempfile::tempdir().unwrap();
    let at = |file: &str| dir.path().join(file);
    File::create(at("empty")).unwrap();
    fs::write(at("odd"), [0; 513]).unwrap();
    fs::write(at("good"), [0; 1024]).unwrap();
    let paths = [at("missing"), at("."), at("empty"), at("good"), at("odd")];
    let told = errors(|spec| spec.disks = paths.iter().map(|path| threads(path)).collect());
    let reasons = ["No such file", "neither a regular", "empty", "513 bytes"];
    assert_eq!(told.len(), reasons.len(), "{told:?}");
    for (line, reason) in told.iter().zip(reasons) {
        let named = line.starts_with(format!("disk {:?}", dir.path()).trim_end_matches('"'));
        assert!(named && line.contains(reason), "{line}");
    }
}

#[test]
fn image_used_twice_is_told_unless_nobody_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, [0; 512]).unwrap();
    let twice = |readonly: bool| {
        let disk = DiskSpec {
            readonly,
            ..threads(&path)
        };
        errors(|spec| spec.disks = vec![disk; 2])
    };
    assert_eq!(twice(true), Vec::<String>::new());
    assert!(twice(false)[0].contains("is the image of disk disk0 of this VM, too"));
    // By another name, too.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let told = errors(|spec| spec.disks = vec![threads(&path), threads(&link)]);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("link\": is the image of disk disk0"),
        "{told:?}"
    );
}

#[test]
fn socket_missing_or_without_a_listener_is_told_and_a_living_one_is_connected() {
    let dir = tempfile::tempdir().unwrap();
    let at = |file: &str| dir.path().join(file);
    drop(UnixListener::bind(at("dead")).unwrap());
    let _listener = UnixListener::bind(at("alive")).unwrap();
    let device = |file: &str| {
        let text = format!("type=rng,socket={}", at(file).display());
        text.parse::<VhostUserSpec>().unwrap()
    };
    let devices = ["missing", "dead", "alive"].map(device);
    let told = errors(|spec| spec.vhost_user = devices.to_vec());
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("missing\": No such file"), "{told:?}");
    assert!(told[1].contains("dead\": no program listens"), "{told:?}");
}
