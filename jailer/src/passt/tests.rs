// SPDX-License-Identifier: Apache-2.0
//! passt: found, started, asked, and what is said when it cannot be had. Scripts take its place.

use super::*;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use spec::VmSpec;

/// Answers the question, and then hears until its connection ends.
const SERVES: &str = r#"head -c 12 <&3 > /dev/null
printf '\001\000\000\000\005\000\000\000\010\000\000\000\000\000\000\000\000\000\000\000' >&3
echo $$ "$@" > pid
cat <&3 > /dev/null"#;

fn vm(net: &str) -> Vm {
    let mut spec = VmSpec::new("/k");
    spec.nets = vec![net.parse().unwrap()];
    Vm::try_from(spec).unwrap()
}

struct Bench {
    dir: tempfile::TempDir,
    passts: Passts,
}

impl Bench {
    fn new(net: &str, script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("passt");
        let text = format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display());
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.path().join("log");
        let writer = OpenOptions::new().append(true).create(true).open(&path);
        let log = Log {
            writer: writer.unwrap(),
            reader: File::open(&path).unwrap(),
            old: File::open("/dev/null").unwrap(),
        };
        let passts = Passts::new(&vm(net), Some(program), None, &log).unwrap();
        Self { dir, passts }
    }

    fn refused(&self) -> String {
        self.passts.start_all().unwrap_err().to_string()
    }

    /// The process id and arguments of the last one.
    fn last(&self) -> (Pid, String) {
        let path = self.dir.path().join("pid");
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if let Some((pid, arguments)) = text.trim().split_once(' ') {
                return (Pid::from_raw(pid.parse().unwrap()), arguments.into());
            }
            assert!(std::time::Instant::now() < deadline, "it does not start");
        }
    }
}

#[test]
fn passt_that_answers_is_served_by_until_dropped_and_then_gone() {
    let bench = Bench::new("user,forward=tcp:8080:80,forward=udp:5353:53", SERVES);
    let streams = bench.passts.start_all().unwrap();
    assert_eq!(streams.len(), 1);
    let (pid, arguments) = bench.last();
    assert!(arguments.contains("--vhost-user"), "{arguments}");
    assert!(
        arguments.ends_with("--tcp-ports 8080:80 --udp-ports 5353:53"),
        "{arguments}"
    );
    assert!(kill(pid, None).is_ok());
    let Bench { dir, passts } = bench;
    drop(passts);
    assert!(kill(pid, None).is_err());
    drop(dir);
}

#[test]
fn passt_started_again_takes_the_place_of_the_one_before() {
    let bench = Bench::new("user", SERVES);
    let _first = bench.passts.start_all().unwrap();
    let (first, _) = bench.last();
    fs::remove_file(bench.dir.path().join("pid")).unwrap();
    let second = bench.passts.start_again(0).unwrap();
    knock(&second.try_clone().unwrap().into()).unwrap();
    let (second, _) = bench.last();
    assert!(kill(first, None).is_err());
    assert!(kill(second, None).is_ok());
    assert!(bench.passts.start_again(1).is_err());
}

#[test]
fn passt_started_again_is_not_waited_for_even_if_it_is_silent() {
    let bench = Bench::new("user", "sleep 2; touch spoken; cat <&3 > /dev/null");
    let _stream = bench.passts.start_again(0).unwrap();
    assert!(!bench.dir.path().join("spoken").exists());
}

#[test]
fn passt_too_old_or_that_fails_is_told_with_what_it_said() {
    let old = "echo \"passt: unrecognized option '--vhost-user'\" >&2; exit 1";
    let error = Bench::new("user", old).refused();
    assert!(
        error.starts_with("net.user \"net0\": ") && error.contains("is too old"),
        "{error}"
    );
    let failing = "echo 'Trouble ahead' >&2; echo 'No room for two' >&2; exit 1";
    let error = Bench::new("user", failing).refused();
    assert!(error.ends_with("passt says: No room for two"), "{error}");
}

#[test]
fn passt_that_answers_byte_by_byte_is_not_waited_for() {
    let drips = "for n in $(seq 20); do printf '\\001' >&3; sleep 0.4; done; cat <&3 > /dev/null";
    let error = Bench::new("user", drips).refused();
    assert!(error.ends_with("its answer is cut short"), "{error}");
}

#[test]
fn port_that_is_taken_and_passt_that_is_missing_are_told_before_anything_starts() {
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut errors = Vec::new();
    check(
        &vm(&format!("user,forward=tcp:{port}:80")),
        None,
        &mut errors,
    );
    let fields: Vec<_> = errors.iter().map(|error| error.field).collect();
    assert_eq!(fields, ["net.user", "net.forward"]);
    assert!(errors[0].reason.contains("apt install"));
    let mut errors = Vec::new();
    check(&vm("tap=t"), None, &mut errors);
    assert!(errors.is_empty());
}
